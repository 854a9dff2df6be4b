package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// tool is what the commands share.
type tool struct {
	connection connection
	mesh       string
	output     string
	table      *resource.Table
}

// AddCommands gives a root command the flags and commands of meridianctl.
func AddCommands(root *cobra.Command) {
	t := &tool{table: resource.NewTable()}
	f := root.PersistentFlags()
	f.StringVar(&t.connection.address, "address", "http://127.0.0.1:5681", "the control plane's REST API")
	f.StringVar(&t.connection.caCertFile, "ca-cert-file", "", "file of the CA that the control plane is verified with (default: the system's)")
	f.StringVar(&t.connection.clientCertFile, "client-cert-file", "", "client certificate to show")
	f.StringVar(&t.connection.clientKeyFile, "client-key-file", "", "key of --client-cert-file")
	f.BoolVar(&t.connection.skipVerify, "skip-verify", false, "do not verify the control plane's certificate")
	f.StringVar(&t.connection.userTokenFile, "user-token-file", os.Getenv("MERIDIAN_USER_TOKEN_FILE"), "file of the user token to send, over https only (or MERIDIAN_USER_TOKEN_FILE)")
	f.StringVarP(&t.mesh, "mesh", "m", "default", "mesh of the resources")
	root.AddCommand(t.get(), t.apply(), t.delete(), t.inspect(), t.wait(), t.generate(), t.revoke(), t.backup(), t.export())
}

// with runs f with a client that is closed afterwards.
func (t *tool) with(f func(*client) error) error {
	c, err := t.connection.open()
	if err != nil {
		return err
	}
	defer c.close()
	return f(c)
}

func (t *tool) outputFlag(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&t.output, "output", "o", "table", "table, json or yaml")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// kind finds a kind by any of its names; plural tells whether the name was that of the collection.
func (t *tool) kind(name string) (d *resource.Descriptor, plural bool, err error) {
	name = strings.ToLower(name)
	for _, d := range t.table.All() {
		if d.Access == resource.Internal {
			continue
		}
		if name == d.Singular || name == strings.ToLower(string(d.Kind)) {
			return d, false, nil
		}
	}
	if d, ok := t.table.ByPlural(name); ok && d.Access != resource.Internal {
		return d, true, nil
	}
	return nil, false, fmt.Errorf("unknown type %q; there are %s", name, strings.Join(t.kinds(), ", "))
}

func (t *tool) kinds() []string {
	var names []string
	for _, d := range t.table.All() {
		if d.Access != resource.Internal {
			names = append(names, d.Singular)
		}
	}
	return names
}

// collection is the path of a kind's list; an item's is one name longer.
func collection(d *resource.Descriptor, mesh string) []string {
	if d.Scope == resource.ScopeMesh {
		return []string{"meshes", url.PathEscape(mesh), d.Plural}
	}
	return []string{d.Plural}
}

func item(d *resource.Descriptor, mesh, name string) []string {
	return append(collection(d, mesh), url.PathEscape(name))
}

func (t *tool) completeKinds(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return t.kinds(), cobra.ShellCompDirectiveNoFileComp
}

func (t *tool) get() *cobra.Command {
	var size int
	var offset string
	c := &cobra.Command{
		Use: "get TYPE [NAME]", Short: "Show a resource, or all of a type", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: t.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			d, plural, err := t.kind(args[0])
			if err != nil {
				return err
			}
			return t.with(func(cp *client) error {
				if len(args) == 2 {
					a, err := cp.do(c.Context(), http.MethodGet, item(d, t.mesh, args[1]), nil, "", nil)
					if err != nil {
						return err
					}
					return printItem(c.OutOrStdout(), t.output, a.body)
				}
				if !plural {
					return fmt.Errorf("get %s: give a name, or ask for all: get %s", args[0], d.Plural)
				}
				query := url.Values{}
				if offset != "" {
					query.Set("offset", offset)
				}
				read := cp.all
				if c.Flags().Changed("size") {
					query.Set("size", strconv.Itoa(size))
					read = cp.page
				}
				l, err := read(c.Context(), collection(d, t.mesh), query)
				if err != nil {
					return err
				}
				return printList(c.OutOrStdout(), t.output, l, d.Scope == resource.ScopeMesh)
			})
		},
	}
	c.Flags().IntVar(&size, "size", 0, "show one page of so many (default: all)")
	c.Flags().StringVar(&offset, "offset", "", "where the page begins, as the one before says")
	return t.outputFlag(c)
}

func (t *tool) delete() *cobra.Command {
	return &cobra.Command{
		Use: "delete TYPE NAME", Short: "Delete a resource", Args: cobra.ExactArgs(2), ValidArgsFunction: t.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			d, _, err := t.kind(args[0])
			if err != nil {
				return err
			}
			return t.with(func(cp *client) error {
				a, err := cp.do(c.Context(), http.MethodDelete, item(d, t.mesh, args[1]), nil, "", nil)
				if err != nil {
					return err
				}
				return report(c.OutOrStdout(), d, t.mesh, args[1], "deleted", a)
			})
		},
	}
}

// report says what was done, and with which revision.
func report(out io.Writer, d *resource.Descriptor, mesh, name, what string, a answer) error {
	key := resource.Key{Kind: d.Kind, Name: name}
	if d.Scope == resource.ScopeMesh {
		key.Scope = mesh
	}
	if revision := a.header.Get("Meridian-Revision"); revision != "" {
		what += ", revision " + revision
	}
	_, err := fmt.Fprintf(out, "%s %s\n", key, what)
	return err
}

func (t *tool) apply() *cobra.Command {
	var files []string
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Create or update the resources in files", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return errors.New("--file: is needed; - is the standard input")
			}
			return t.with(func(cp *client) error {
				for _, name := range files {
					docs, err := readDocuments(name, c.InOrStdin())
					if err != nil {
						return err
					}
					for i, doc := range docs {
						if err := t.put(c.Context(), cp, c.OutOrStdout(), doc); err != nil {
							if len(docs) > 1 {
								err = fmt.Errorf("document %d: %w", i+1, err)
							}
							return fmt.Errorf("%s: %w", name, err)
						}
					}
				}
				return nil
			})
		},
	}
	c.Flags().StringArrayVarP(&files, "file", "f", nil, "YAML or JSON file of any number of documents; - is the standard input; may be given often")
	return c
}

func (t *tool) put(ctx context.Context, cp *client, out io.Writer, doc document) error {
	d, ok := t.table.ByKind(resource.Kind(doc.Type))
	if !ok || d.Access == resource.Internal {
		return fmt.Errorf("type: %q is not one that there is", doc.Type)
	}
	if doc.Name == "" {
		return errors.New("name: is needed")
	}
	mesh := t.mesh
	if doc.Mesh != "" {
		mesh = doc.Mesh
	}
	a, err := cp.do(ctx, http.MethodPut, item(d, mesh, doc.Name), nil, doc.contentType, doc.body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", doc.Type, doc.Name, err)
	}
	what := "updated"
	if a.status == http.StatusCreated {
		what = "created"
	}
	return report(out, d, mesh, doc.Name, what, a)
}

func (t *tool) inspect() *cobra.Command {
	c := &cobra.Command{
		Use: "inspect", Short: "Show how zones and data plane proxies are", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	zones := t.outputFlag(&cobra.Command{
		Use: "zones", Short: "Show the zones and how far they have come", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.overviews(c, []string{"zones+insights"}, url.Values{}, printZones)
		},
	})
	var tags []string
	var gateway, ingress bool
	dataplanes := t.outputFlag(&cobra.Command{
		Use: "dataplanes", Short: "Show a mesh's data plane proxies and how far they have come", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			query := url.Values{}
			for _, tag := range tags {
				key, value, ok := strings.Cut(tag, "=")
				if !ok {
					return fmt.Errorf("--tag: must be key=value, got %q", tag)
				}
				query.Add("tag", key+":"+value)
			}
			for name, value := range map[string]bool{"gateway": gateway, "ingress": ingress} {
				if c.Flags().Changed(name) {
					query.Set(name, strconv.FormatBool(value))
				}
			}
			return t.overviews(c, []string{"meshes", url.PathEscape(t.mesh), "dataplanes+insights"}, query, printDataplanes)
		},
	})
	dataplanes.Flags().StringArrayVar(&tags, "tag", nil, "only those with the tag key=value; may be given often")
	dataplanes.Flags().BoolVar(&gateway, "gateway", false, "only gateways (false: none)")
	dataplanes.Flags().BoolVar(&ingress, "ingress", false, "only ingresses (false: none)")
	c.AddCommand(zones, dataplanes)
	return c
}

func (t *tool) overviews(c *cobra.Command, path []string, query url.Values, print func(io.Writer, []json.RawMessage) error) error {
	return t.with(func(cp *client) error {
		l, err := cp.all(c.Context(), path, query)
		if err != nil {
			return err
		}
		if t.output == "table" {
			return print(c.OutOrStdout(), l.Items)
		}
		return printList(c.OutOrStdout(), t.output, l, false)
	})
}

func (t *tool) generate() *cobra.Command {
	c := &cobra.Command{
		Use: "generate", Short: "Make tokens, their keys, and certificates", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(t.zoneToken(), t.dataplaneToken(), t.userToken(), t.signingKey(), t.tlsCertificate())
	return c
}

func (t *tool) zoneToken() *cobra.Command {
	var zone string
	var validFor time.Duration
	c := &cobra.Command{
		Use: "zone-token", Short: "Make a token with which a zone joins the global control plane", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.token(c, []string{"tokens", "zone"}, struct {
				Zone     string `json:"zone"`
				ValidFor string `json:"validFor"`
			}{zone, validFor.String()})
		},
	}
	c.Flags().StringVar(&zone, "zone", "", "name of the zone")
	c.Flags().DurationVar(&validFor, "valid-for", 720*time.Hour, "for how long the token holds")
	_ = c.MarkFlagRequired("zone")
	return c
}

func (t *tool) dataplaneToken() *cobra.Command {
	var name, typ string
	var tags []string
	var validFor time.Duration
	c := &cobra.Command{
		Use: "dataplane-token", Short: "Make a token with which data plane proxies connect", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			body := struct {
				Name     string              `json:"name"`
				Mesh     string              `json:"mesh"`
				Tags     map[string][]string `json:"tags"`
				Type     string              `json:"type"`
				ValidFor string              `json:"validFor,omitempty"`
			}{Name: name, Mesh: t.mesh, Tags: map[string][]string{}, Type: typ}
			for _, tag := range tags {
				key, values, ok := strings.Cut(tag, "=")
				if !ok || key == "" {
					return fmt.Errorf("--tag: must be key=value,value, got %q", tag)
				}
				body.Tags[key] = append(body.Tags[key], strings.Split(values, ",")...)
			}
			if c.Flags().Changed("valid-for") {
				body.ValidFor = validFor.String()
			}
			return t.token(c, []string{"tokens"}, body)
		},
	}
	c.Flags().StringVar(&name, "name", "", "only for the proxy of this name")
	c.Flags().StringArrayVar(&tags, "tag", nil, "only for proxies whose tag has none but these values: key=value,value; may be given often")
	c.Flags().StringVar(&typ, "type", "dataplane", "dataplane or ingress")
	c.Flags().DurationVar(&validFor, "valid-for", 87600*time.Hour, "for how long the token holds")
	return c
}

func (t *tool) token(c *cobra.Command, path []string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return t.with(func(cp *client) error {
		a, err := cp.do(c.Context(), http.MethodPost, path, nil, "application/json", data)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), strings.TrimSpace(string(a.body)))
		return err
	})
}
