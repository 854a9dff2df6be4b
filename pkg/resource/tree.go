package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// MaxDepth is how deep lists and objects of a body may nest, the outermost counted, unless Limits allow less.
const MaxDepth = 64

// SyntaxError says where a body stops being JSON or YAML. Such a body has no fields that could be named.
type SyntaxError struct {
	// Line and Column count from 1, Column in bytes; both are 0 where the place is unknown.
	Line, Column int
	Message      string
}

// Error implements error.
func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
}

func syntaxErrorAt(body []byte, offset int, message string) *SyntaxError {
	before := body[:max(0, min(offset, len(body)))]
	return &SyntaxError{
		Line:    1 + bytes.Count(before, []byte{'\n'}),
		Column:  len(before) - bytes.LastIndexByte(before, '\n'),
		Message: message,
	}
}

type shape uint8

const (
	shapeNull shape = iota
	shapeBool
	shapeNumber
	shapeString
	shapeList
	shapeObject
)

func (s shape) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "an object"}[s]
}

// value is what JSON and YAML have in common: members in the order given, duplicates kept.
type value struct {
	shape   shape
	truth   bool
	text    string // of a string; of a number its JSON literal
	items   []value
	members []member
}

type member struct {
	name  string
	value value
}

// parseJSON refuses trailing bytes and invalid UTF-8, which the published release drops or replaces: nothing
// that was given may be lost silently.
func parseJSON(body []byte, depth int) (value, error) {
	if !utf8.Valid(body) {
		return value{}, &SyntaxError{Message: "the body is not valid UTF-8"}
	}
	var raw json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		if s, ok := errors.AsType[*json.SyntaxError](err); ok {
			return value{}, syntaxErrorAt(body, int(s.Offset)-1, s.Error())
		}
		return value{}, &SyntaxError{Message: err.Error()}
	}
	return parseValidJSON(body, depth)
}

// parseValidJSON is parseJSON of one value that is known to be valid.
func parseValidJSON(body []byte, depth int) (value, error) {
	p := jsonParser{body: body, most: depth, dec: json.NewDecoder(bytes.NewReader(body))}
	p.dec.UseNumber()
	return p.value(1)
}

type jsonParser struct {
	body []byte
	most int
	dec  *json.Decoder
}

func (p *jsonParser) fail(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return syntaxErrorAt(p.body, int(p.dec.InputOffset()), err.Error())
}

func (p *jsonParser) value(depth int) (value, error) {
	t, err := p.dec.Token()
	if err != nil {
		return value{}, p.fail(err)
	}
	switch t := t.(type) {
	case nil:
		return value{}, nil
	case bool:
		return value{shape: shapeBool, truth: t}, nil
	case json.Number:
		return value{shape: shapeNumber, text: t.String()}, nil
	case string:
		return value{shape: shapeString, text: t}, nil
	}
	if depth > p.most {
		return value{}, p.fail(errors.New(tooDeep(p.most)))
	}
	v := value{shape: shapeList}
	if t == json.Delim('{') {
		v.shape = shapeObject
	}
	for p.dec.More() {
		var name string
		if v.shape == shapeObject {
			t, err := p.dec.Token()
			if err != nil {
				return value{}, p.fail(err)
			}
			name, _ = t.(string)
		}
		x, err := p.value(depth + 1)
		if err != nil {
			return value{}, err
		}
		if v.shape == shapeObject {
			v.members = append(v.members, member{name, x})
		} else {
			v.items = append(v.items, x)
		}
	}
	if _, err := p.dec.Token(); err != nil {
		return value{}, p.fail(err)
	}
	return v, nil
}
