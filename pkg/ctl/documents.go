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
)

// document is one resource of a file, as it stands there.
type document struct {
	Type string `json:"type" yaml:"type"`
	Mesh string `json:"mesh" yaml:"mesh"`
	Name string `json:"name" yaml:"name"`

	contentType string
	body        []byte
}

// readDocuments reads a file of JSON or YAML documents; "-" is stdin.
func readDocuments(name string, stdin io.Reader) ([]document, error) {
	from := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: is larger than %d bytes", name, maxFile)
	}
	docs, err := parseDocuments(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("%s: holds no resource", name)
	}
	return docs, nil
}

func parseDocuments(data []byte) ([]document, error) {
	if docs, err := parseJSON(data); err == nil {
		return docs, nil
	}
	var docs []document
	for i, text := range splitYAML(string(data)) {
		d, err := parseYAML(text)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if d != nil {
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
		d := document{contentType: "application/json", body: raw}
		if err := json.Unmarshal(raw, &d); err != nil {
			return nil, err
		}
		docs = append(docs, d)
	}
}

// splitYAML cuts at the lines that separate documents. They begin a line, where nothing else of YAML can.
func splitYAML(text string) []string {
	var docs []string
	var doc strings.Builder
	for line := range strings.Lines(text) {
		switch marker := strings.TrimRight(line, " \t\r\n"); {
		case marker == "---" || marker == "..." || strings.HasPrefix(marker, "--- #"):
			docs = append(docs, doc.String())
			doc.Reset()
		default:
			doc.WriteString(line)
		}
	}
	return append(docs, doc.String())
}

// parseYAML gives nil for a document of nothing but comments.
func parseYAML(text string) (*document, error) {
	var v any
	d := document{contentType: "application/yaml", body: []byte(text)}
	if err := yaml.Unmarshal(d.body, &v); err != nil {
		return nil, firstLine(err)
	}
	if v == nil {
		return nil, nil
	}
	if err := yaml.Unmarshal(d.body, &d); err != nil {
		return nil, firstLine(err)
	}
	return &d, nil
}

func firstLine(err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(line)
}
