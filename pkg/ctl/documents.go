package ctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// document is one resource of a file, as it stands there.
type document struct {
	Type, Mesh, Name string

	contentType string
	body        []byte
	// hasMesh says that the mesh stands in it, if only as nothing.
	hasMesh bool
	// number is which document of the file it is, from 1.
	number int

	// file is where it stands; alone says that nothing else does.
	file  string
	alone bool
	kind  *resource.Descriptor
	// addMesh says that the mesh does not stand in it.
	addMesh bool
}

// place says where the document stands.
func (d document) place() string {
	file := d.file
	if file == "-" {
		file = "standard input"
	}
	if d.alone {
		return file
	}
	return fmt.Sprintf("%s: document %d", file, d.number)
}

func parseDocuments(data []byte) ([]document, error) {
	if docs, ok, err := parseJSON(data); ok {
		return docs, err
	}
	var docs []document
	for _, text := range splitYAML(string(data)) {
		d, err := parseYAML(text)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", len(docs)+1, err)
		}
		if d != nil {
			d.number = len(docs) + 1
			docs = append(docs, *d)
		}
	}
	return docs, nil
}

// parseJSON reads JSON documents; ok is false where it is none.
func parseJSON(data []byte) (docs []document, ok bool, err error) {
	for dec := json.NewDecoder(bytes.NewReader(data)); ; {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return docs, true, nil
		}
		if err != nil {
			return nil, false, nil
		}
		var v map[string]any
		if err := json.Unmarshal(raw, &v); err != nil || v == nil {
			return nil, false, nil
		}
		d := document{contentType: jsonType, body: raw, number: len(docs) + 1}
		if err := d.header(v); err != nil {
			return nil, true, fmt.Errorf("document %d: %w", d.number, err)
		}
		docs = append(docs, d)
	}
}

// splitYAML cuts at the lines that separate documents. They begin a line, where nothing else of YAML can. What
// follows the dashes belongs to the next document.
func splitYAML(text string) []string {
	var docs []string
	var doc strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "---") || strings.HasPrefix(line, "...") {
			if rest := line[3:]; strings.TrimLeft(rest, " \t\r\n") == "" || rest[0] == ' ' || rest[0] == '\t' {
				docs = append(docs, doc.String())
				doc.Reset()
				if line = strings.TrimLeft(rest, " \t"); strings.TrimRight(line, "\r\n") == "" {
					continue
				}
			}
		}
		doc.WriteString(line)
	}
	return append(docs, doc.String())
}

// parseYAML gives nil for a document of nothing but comments.
func parseYAML(text string) (*document, error) {
	var v any
	d := document{contentType: yamlType, body: []byte(text)}
	if err := yaml.Unmarshal(d.body, &v); err != nil {
		return nil, firstLine(err)
	}
	if v == nil {
		return nil, nil
	}
	members, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("is no resource: it has no fields")
	}
	if err := d.header(members); err != nil {
		return nil, err
	}
	return &d, nil
}

// header reads what a document is about. As a control plane does, it takes the keys in any case.
func (d *document) header(members map[string]any) error {
	given := map[string]bool{}
	for key, v := range members {
		var to *string
		key = strings.ToLower(key)
		switch key {
		case "type":
			to = &d.Type
		case "mesh":
			to, d.hasMesh = &d.Mesh, true
		case "name":
			to = &d.Name
		default:
			continue
		}
		if given[key] {
			return fmt.Errorf("%s: is given twice", key)
		}
		given[key] = true
		text, ok := v.(string)
		if !ok && v != nil {
			return fmt.Errorf("%s: must be text", key)
		}
		*to = text
	}
	return nil
}

// readBounded reads a file of at most so many bytes.
func readBounded(file string, most int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return bounded(f, file, most)
}

// bounded reads what has at most so many bytes.
func bounded(r io.Reader, name string, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s: is larger than %d bytes", name, most)
	}
	return data, nil
}

func firstLine(err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(line)
}
