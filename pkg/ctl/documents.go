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
	Type string `json:"type" yaml:"type"`
	Mesh string `json:"mesh" yaml:"mesh"`
	Name string `json:"name" yaml:"name"`

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
	if docs, err := parseJSON(data); err == nil {
		return docs, nil
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

func parseJSON(data []byte) ([]document, error) {
	var docs []document
	for dec := json.NewDecoder(bytes.NewReader(data)); ; {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, err
		}
		d := document{contentType: jsonType, body: raw, number: len(docs) + 1}
		if err := json.Unmarshal(raw, &d); err != nil {
			return nil, err
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(raw, &members); err != nil || members == nil {
			return nil, errors.New("is no object")
		}
		_, d.hasMesh = members["mesh"]
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
	if err := yaml.Unmarshal(d.body, &d); err != nil {
		return nil, firstLine(err)
	}
	if members, ok := v.(map[string]any); ok {
		_, d.hasMesh = members["mesh"]
	}
	return &d, nil
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
