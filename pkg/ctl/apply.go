package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

const (
	// fetchTime is how long a file may take to come from a URL, maxFetch how large it may be, in bytes.
	fetchTime = 30 * time.Second
	maxFetch  = 32 << 20
	// maxItems and maxBytes are what one batch holds: what a control plane takes unless it is told otherwise.
	maxItems = 10_000
	maxBytes = 31 << 20
	// batchTitle is how a control plane's refusals of a batch begin.
	batchTitle = "Could not process a batch"
)

func (t *tool) apply() *cobra.Command {
	var a application
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Create or update the resources in files", Args: cobra.NoArgs,
		Long: `Create or update the resources in files.

Several documents are one transaction: all of them are stored or none is, and their order means nothing. They are several
transactions, in the order in which they are given, only where a file has a resource again, or where there are more than
10,000 of them, or 31 MiB.

{{ name }} in a file is replaced by the value of -v name=value.`,
		Example: `  meridianctl apply -f mesh.yaml -f policies/
  meridianctl apply -f https://config.example/mesh.yaml -v zone=east
  meridianctl apply --dry-run -f mesh.yaml`,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case len(a.files) == 0:
				return usagef("--file: is needed; - is the standard input")
			case c.Flags().Changed("output") && !a.dryRun:
				return usagef("--output: only with --dry-run")
			case !slices.Contains([]string{"", "yaml", "json"}, a.format):
				return usagef("--output: must be yaml or json, got %q", a.format)
			}
			var err error
			if a.values, err = variables(a.vars); err != nil {
				return err
			}
			docs, err := a.read(c.Context(), c.InOrStdin())
			if err != nil {
				return err
			}
			for i := range docs {
				if err := docs[i].resolve(t.table, t.mesh); err != nil {
					return fmt.Errorf("%s: %w", docs[i].place(), err)
				}
			}
			return t.with(c, func(cp *client) error {
				a.cp, a.out, a.stderr = cp, c.OutOrStdout(), c.ErrOrStderr()
				return a.apply(c.Context(), docs)
			})
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&a.files, "file", "f", nil, "YAML or JSON file of any number of documents, folder of such files (.yaml, .yml, .json), http or https URL, or - for the standard input; may be given often")
	f.StringArrayVarP(&a.vars, "var", "v", nil, "name=value that stands as {{ name }} in the files; may be given often")
	f.BoolVar(&a.verbatim, "no-vars", false, "take the files as they are, {{ }} and all")
	f.BoolVar(&a.dryRun, "dry-run", false, "let the control plane decide, but store nothing; one document is shown as it would be stored")
	f.StringVarP(&a.format, "output", "o", "", "yaml or json, for --dry-run")
	return c
}

// application is one run of apply.
type application struct {
	files, vars      []string
	verbatim, dryRun bool
	format           string
	values           map[string]string

	cp          *client
	out, stderr io.Writer
}

func variables(vars []string) (map[string]string, error) {
	values := map[string]string{}
	for _, v := range vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, usagef("--var: must be name=value, got %q", v)
		}
		values[name] = value
	}
	return values, nil
}

var placeholder = regexp.MustCompile(`\{\{\s*([A-Za-z0-9_.-]+)\s*\}\}`)

// render puts the values in the places of a file.
func render(text []byte, values map[string]string) ([]byte, error) {
	var missing []string
	out := placeholder.ReplaceAllFunc(text, func(p []byte) []byte {
		name := string(placeholder.FindSubmatch(p)[1])
		value, ok := values[name]
		if !ok && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
		return []byte(value)
	})
	if len(missing) > 0 {
		return nil, fmt.Errorf("no value is given for %s (-v name=value; --no-vars takes {{ }} as it is)", strings.Join(missing, ", "))
	}
	return out, nil
}

// read reads all documents before any is applied. Together they may be as large as one file.
func (a *application) read(ctx context.Context, stdin io.Reader) ([]document, error) {
	var docs []document
	budget := int64(maxFile)
	for _, name := range a.files {
		files, err := filesOf(name)
		if err != nil {
			return nil, err
		}
		before := len(docs)
		for _, file := range files {
			data, err := content(ctx, file, stdin, budget)
			if err != nil {
				return nil, err
			}
			budget -= int64(len(data))
			file := called(file)
			if !a.verbatim {
				if data, err = render(data, a.values); err != nil {
					return nil, fmt.Errorf("%s: %w", file, err)
				}
			}
			parsed, err := parseDocuments(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			for i := range parsed {
				parsed[i].file, parsed[i].alone = file, len(parsed) == 1
			}
			docs = append(docs, parsed...)
		}
		if len(docs) == before {
			return nil, fmt.Errorf("%s: holds no resource", called(name))
		}
	}
	return docs, nil
}

func isURL(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// called is what a file is called in what is printed: a password in a URL is left out.
func called(name string) string {
	if u, err := url.Parse(name); err == nil && isURL(name) {
		return u.Redacted()
	}
	return name
}

// filesOf gives the files of a folder, in the order of their names, or the one that is named.
func filesOf(name string) ([]string, error) {
	if name == "-" || isURL(name) {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return []string{name}, err
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(path.Ext(e.Name()))) && !e.IsDir() {
			files = append(files, filepath.Join(name, e.Name()))
		}
	}
	return files, nil
}

func content(ctx context.Context, name string, stdin io.Reader, budget int64) ([]byte, error) {
	switch {
	case name == "-":
		return bounded(stdin, "standard input", budget)
	case isURL(name):
		return fetch(ctx, name, min(budget, maxFetch))
	}
	return readBounded(name, budget)
}

// fetch reads a file from elsewhere, where nobody is told who asks.
func fetch(ctx context.Context, address string, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
			return errors.New("it leads from https to http")
		}
		if len(via) > 5 {
			return errors.New("it leads elsewhere again and again")
		}
		return nil
	}}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", called(address), resp.Status)
	}
	return bounded(resp.Body, called(address), most)
}

// resolve finds the kind of a document, and the mesh that it goes to.
func (d *document) resolve(table *resource.Table, mesh string) error {
	kind, ok := table.ByKind(resource.Kind(d.Type))
	if !ok || kind.Access == resource.Internal {
		return fmt.Errorf("type: %q is not one that there is", d.Type)
	}
	if d.Name == "" {
		return errors.New("name: is needed")
	}
	d.kind = kind
	if kind.Scope == resource.ScopeMesh && d.Mesh == "" {
		if d.hasMesh {
			return errors.New("mesh: is empty")
		}
		d.Mesh, d.addMesh = mesh, true
	}
	return nil
}

// key is what the document is about.
func (d document) key() resource.Key {
	k := resource.Key{Kind: d.kind.Kind, Name: d.Name}
	if d.kind.Scope == resource.ScopeMesh {
		k.Scope = d.Mesh
	}
	return k
}

// apply sends the documents: one as it stands, several as batches.
func (a *application) apply(ctx context.Context, docs []document) error {
	if len(docs) == 1 {
		return a.put(ctx, docs[0])
	}
	batches, err := batchesOf(docs, maxItems, maxBytes)
	if err != nil {
		return err
	}
	if a.dryRun && len(batches) > 1 {
		return errors.New("--dry-run: the documents can't be decided on together; see apply --help")
	}
	for _, b := range batches {
		err := a.batch(ctx, b)
		if err != nil && lacksBatches(err) && !a.dryRun {
			// A control plane of the published kind: one after the other.
			for _, d := range b.docs {
				if err := a.put(ctx, d); err != nil {
					return err
				}
			}
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func lacksBatches(err error) bool {
	var refused *APIError
	return errors.As(err, &refused) && (refused.Status == http.StatusNotFound || refused.Status == http.StatusMethodNotAllowed) &&
		!strings.HasPrefix(refused.Title, batchTitle)
}

func (a *application) query() url.Values {
	if a.dryRun {
		return url.Values{"dryRun": {"true"}}
	}
	return nil
}

func (a *application) put(ctx context.Context, d document) error {
	res, err := a.cp.do(ctx, http.MethodPut, item(d.kind, d.Mesh, d.Name), a.query(), d.contentType, d.body)
	if err != nil {
		return fmt.Errorf("%s: %s %s: %w", d.place(), d.Type, d.Name, err)
	}
	for _, w := range warnings(res.header) {
		_, _ = fmt.Fprintf(a.stderr, "Warning: %s: %s\n", d.place(), w)
	}
	if a.dryRun {
		format := a.format
		if format == "" {
			format = "yaml"
		}
		return printItem(a.out, format, res.body)
	}
	what := "updated"
	if res.status == http.StatusCreated {
		what = "created"
	}
	return report(a.out, d.kind, d.Mesh, d.Name, what, res)
}

// batch is what is sent at once.
type batch struct {
	docs        []document
	contentType string
	body        []byte
}

// batchesOf packs documents into as few batches as they fit in. What comes again in a file goes into the next one:
// an export has a mesh again once the secrets of its backends are there. In two files it has no order.
func batchesOf(docs []document, items, size int) ([]batch, error) {
	in := map[resource.Key]string{}
	for _, d := range docs {
		if file, ok := in[d.key()]; ok && file != d.file {
			return nil, fmt.Errorf("%s: %s stands in %s too", d.place(), d.key(), file)
		}
		in[d.key()] = d.file
	}
	bodies, contentType, err := alike(docs)
	if err != nil {
		return nil, err
	}
	before, between, after := `{"put":[`, ",", "]}"
	if contentType == yamlType {
		before, between, after = "", "\n---\n", "\n"
	}
	var all []batch
	for from := 0; from < len(docs); {
		var body bytes.Buffer
		body.WriteString(before)
		to, has := from, map[resource.Key]bool{}
		for ; to < len(docs) && to-from < items && (to == from || body.Len()+len(bodies[to]) < size) && !has[docs[to].key()]; to++ {
			has[docs[to].key()] = true
			if to > from {
				body.WriteString(between)
			}
			body.Write(bodies[to])
		}
		body.WriteString(after)
		all = append(all, batch{docs[from:to], contentType, body.Bytes()})
		from = to
	}
	return all, nil
}

// alike gives the documents in one format: as they stand if they are all of one, else as YAML, of which JSON is a
// part but for some escapes in texts.
func alike(docs []document) ([][]byte, string, error) {
	contentType := docs[0].contentType
	for _, d := range docs {
		if d.contentType != contentType {
			contentType = yamlType
		}
	}
	bodies := make([][]byte, len(docs))
	for i, d := range docs {
		body, err := d.complete()
		if err == nil && d.contentType != contentType {
			body, err = plain(body)
		}
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", d.place(), err)
		}
		bodies[i] = body
	}
	return bodies, contentType, nil
}

// plain writes JSON without escapes that need not be.
func plain(body []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSpace(out.Bytes()), err
}

// complete is a document's body with its mesh, which a batch has no path for.
func (d document) complete() ([]byte, error) {
	if !d.addMesh {
		return d.body, nil
	}
	mesh, err := json.Marshal(d.Mesh)
	if err != nil {
		return nil, err
	}
	entry := `"mesh":` + string(mesh)
	if d.contentType == jsonType {
		return append([]byte("{"+entry+","), bytes.TrimLeft(d.body, " \t\r\n")[1:]...), nil
	}
	var out strings.Builder
	done := false
	for line := range strings.Lines(string(d.body)) {
		if text := strings.TrimLeft(line, " "); !done && strings.TrimSpace(text) != "" && text[0] != '#' && text[0] != '%' {
			done = true
			indent := line[:len(line)-len(text)]
			if text[0] == '{' {
				line = indent + "{" + strings.Replace(entry, ":", ": ", 1) + ", " + text[1:]
			} else {
				out.WriteString(indent + "mesh: " + string(mesh) + "\n")
			}
		}
		out.WriteString(line)
	}
	// What is written in an unusual way may not be what it was.
	again, err := parseYAML(out.String())
	if err != nil || again == nil || again.Mesh != d.Mesh || again.Type != d.Type || again.Name != d.Name {
		return nil, errors.New("mesh: is needed")
	}
	return []byte(out.String()), nil
}

func (a *application) batch(ctx context.Context, b batch) error {
	res, err := a.cp.do(ctx, http.MethodPut, []string{"batch"}, a.query(), b.contentType, b.body)
	if err != nil {
		return b.name(err)
	}
	for _, w := range warnings(res.header) {
		if place, rest, ok := b.find(w); ok {
			w = place + rest
		}
		_, _ = fmt.Fprintf(a.stderr, "Warning: %s\n", w)
	}
	if a.format != "" {
		return printItem(a.out, a.format, res.body)
	}
	var done struct {
		Revision json.RawMessage `json:"revision"`
		Results  []struct{ Type, Mesh, Name, Result string }
	}
	if err := json.Unmarshal(res.body, &done); err != nil {
		return fmt.Errorf("the answer can't be read: %w", err)
	}
	when := ", revision " + number(done.Revision)
	if a.dryRun {
		when = " (dry run)"
	}
	for _, r := range done.Results {
		key := resource.Key{Kind: resource.Kind(r.Type), Scope: r.Mesh, Name: r.Name}
		if _, err := fmt.Fprintf(a.out, "%s %s%s\n", key, r.Result, when); err != nil {
			return err
		}
	}
	return nil
}

var itemOf = regexp.MustCompile(`^put\[(\d{1,6})\](?:\.|: |$)`)

// find says where an item of a batch stands, of which a text begins with the path.
func (b batch) find(text string) (place, rest string, ok bool) {
	m := itemOf.FindStringSubmatch(text)
	if m == nil {
		return "", text, false
	}
	i, err := strconv.Atoi(m[1])
	if err != nil || i >= len(b.docs) {
		return "", text, false
	}
	d := b.docs[i]
	place, rest = fmt.Sprintf("%s: %s %s", d.place(), d.Type, d.Name), text[len(m[0]):]
	if rest != "" {
		rest = ": " + rest
	}
	return place, rest, true
}

// name says at each cause of a refusal in which file and document it is.
func (b batch) name(err error) error {
	var refused *APIError
	if !errors.As(err, &refused) {
		return err
	}
	named := *refused
	named.Causes = slices.Clone(refused.Causes)
	for i := range named.Causes {
		place, rest, _ := b.find(named.Causes[i].Field)
		named.Causes[i].Field = place + rest
	}
	return &named
}

var warningText = regexp.MustCompile(`^\d{3} \S+ ("(?:[^"\\]|\\.)*")`)

// warnings are what an answer says of a body besides.
func warnings(h http.Header) []string {
	var all []string
	for _, w := range h.Values("Warning") {
		if m := warningText.FindStringSubmatch(w); m != nil {
			if text, err := strconv.Unquote(m[1]); err == nil {
				w = text
			}
		}
		all = append(all, w)
	}
	return all
}

const (
	jsonType = "application/json"
	yamlType = "application/yaml"
)
