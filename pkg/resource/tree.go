package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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
	if !json.Valid(body) {
		err := json.Unmarshal(body, new(json.RawMessage))
		if s, ok := errors.AsType[*json.SyntaxError](err); ok {
			return value{}, syntaxErrorAt(body, int(s.Offset)-1, s.Error())
		}
		return value{}, &SyntaxError{Message: "the body is not valid JSON"}
	}
	return (&validJSON{body: body}).parse(1, depth)
}

// validJSON walks over JSON that is known to be valid.
type validJSON struct {
	body []byte
	at   int
}

// space passes over white space.
func (s *validJSON) space() {
	for s.at < len(s.body) && (s.body[s.at] == ' ' || s.body[s.at] == '\t' || s.body[s.at] == '\n' || s.body[s.at] == '\r') {
		s.at++
	}
}

// takes passes over white space, and over a byte if it is the next.
func (s *validJSON) takes(c byte) bool {
	s.space()
	if s.at < len(s.body) && s.body[s.at] == c {
		s.at++
		return true
	}
	return false
}

// value passes over a value, and gives its bytes.
func (s *validJSON) value() []byte {
	s.space()
	start := s.at
	for depth := 0; s.at < len(s.body); {
		switch s.body[s.at] {
		case '"':
			s.skipString()
			if depth == 0 {
				return s.body[start:s.at]
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // behind a number or a word
				return s.body[start:s.at]
			}
			if depth--; depth == 0 {
				s.at++
				return s.body[start:s.at]
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return s.body[start:s.at]
			}
		}
		s.at++
	}
	return s.body[start:]
}

// skipString passes over a string, and says whether it has escapes.
func (s *validJSON) skipString() (escaped bool) {
	for s.at++; s.body[s.at] != '"'; s.at++ {
		if s.body[s.at] == '\\' {
			escaped = true
			s.at++
		}
	}
	s.at++
	return escaped
}

// text takes a string.
func (s *validJSON) text() string {
	s.space()
	start := s.at
	if !s.skipString() {
		return string(s.body[start+1 : s.at-1])
	}
	var out string
	if err := json.Unmarshal(s.body[start:s.at], &out); err != nil { // what is valid has no error
		return string(s.body[start+1 : s.at-1])
	}
	return out
}

// parse takes a value that stands so deep, of which most is as deep as one may.
func (s *validJSON) parse(depth, most int) (value, error) {
	s.space()
	switch c := s.body[s.at]; c {
	case '"':
		return value{shape: shapeString, text: s.text()}, nil
	case '{', '[':
		if s.at++; depth > most {
			return value{}, syntaxErrorAt(s.body, s.at, tooDeep(most))
		}
		return s.inner(c, depth, most)
	case 'n':
		s.value()
		return value{}, nil
	case 't', 'f':
		return value{shape: shapeBool, truth: len(s.value()) == len("true")}, nil
	}
	return value{shape: shapeNumber, text: string(s.value())}, nil
}

// inner takes what stands in a list or an object, and its end.
func (s *validJSON) inner(open byte, depth, most int) (value, error) {
	if open == '[' {
		v := value{shape: shapeList}
		for ; !s.takes(']'); s.takes(',') {
			x, err := s.parse(depth+1, most)
			if err != nil {
				return value{}, err
			}
			v.items = append(v.items, x)
		}
		return v, nil
	}
	v := value{shape: shapeObject}
	for ; !s.takes('}'); s.takes(',') {
		name := s.text()
		s.takes(':')
		x, err := s.parse(depth+1, most)
		if err != nil {
			return value{}, err
		}
		v.members = append(v.members, member{name, x})
	}
	return v, nil
}
