package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// BatchItem is one item of a batch.
type BatchItem struct {
	// Path is where it stands: "put[3]", "delete[0]". The documents of a YAML batch count as if they stood in the
	// two lists.
	Path       string
	Descriptor *Descriptor
	Key        Key
	// Delete says that the resource is to be deleted: then there is no Input.
	Delete bool
	Input  Input
}

// DecodeBatchJSON reads {"put": [a resource, ...], "delete": [{"type", "mesh", "name"}, ...]} with at most so many
// items in both lists, and gives each item that it understands to take, in the order in which they stand. Internal
// kinds are unknown to it. It returns a *SyntaxError where the body is not JSON, ErrTooLarge where there are too many
// items or one is too large, or Violations that name all that is wrong with each item, among them that a key comes
// twice.
func (l Limits) DecodeBatchJSON(t *Table, body []byte, most int, take func(BatchItem)) error {
	if !utf8.Valid(body) {
		return &SyntaxError{Message: "the body is not valid UTF-8"}
	}
	if !json.Valid(body) {
		_, err := parseJSON(body, MaxDepth)
		return err
	}
	b := newBatch(t, l, most, take)
	s := validJSON{body: body}
	if !s.takes('{') {
		return &SyntaxError{Line: 1, Column: 1, Message: "the body must be an object with the lists put and delete"}
	}
	seen := map[string]bool{}
	for !s.takes('}') {
		list := s.text()
		s.takes(':')
		switch {
		case list != batchPut && list != batchDelete:
			b.violations.Add(fieldPath("", list), unknownField)
		case seen[list]:
			b.violations.Add(list, givenTwice)
		default:
			seen[list] = true
			if err := b.list(&s, list); err != nil {
				return err
			}
			s.takes(',')
			continue
		}
		s.value()
		s.takes(',')
	}
	return b.violations.Err()
}

// DecodeBatchYAML is DecodeBatchJSON for YAML documents, each a resource, or delete: {type, mesh, name}.
func (l Limits) DecodeBatchYAML(t *Table, body []byte, most int, take func(BatchItem)) error {
	if !utf8.Valid(body) {
		return &SyntaxError{Message: "the body is not valid UTF-8"}
	}
	b := newBatch(t, l, most, take)
	for line, text := range documents(body) {
		if err := b.count(); err != nil {
			return err
		}
		if err := b.limits.fits(len(text)); err != nil {
			return fmt.Errorf("line %d: the document is %w", line, err)
		}
		v, err := parseYAML(text, b.limits)
		if err != nil {
			var s *SyntaxError
			if errors.As(err, &s) && s.Line > 0 {
				return &SyntaxError{Line: s.Line + line - 1, Column: s.Column, Message: s.Message}
			}
			return fmt.Errorf("the document in line %d: %w", line, err)
		}
		if v.shape == shapeObject && len(v.members) == 1 && v.members[0].name == batchDelete {
			b.delete(v.members[0].value)
		} else if err := b.put(v); err != nil {
			return err
		}
	}
	return b.violations.Err()
}

// documents yields the YAML documents of a body that have any content, and the line in which each starts. A line
// that starts with three dashes or three dots ends a document wherever it stands, also inside of a text.
func documents(body []byte) func(yield func(int, []byte) bool) {
	return func(yield func(int, []byte) bool) {
		start, first, line, content := 0, 1, 1, false
		at := 0
		for l := range bytes.Lines(body) {
			bare := bytes.TrimRight(l, "\r\n")
			ends := bytes.HasPrefix(bare, []byte("---")) || bytes.HasPrefix(bare, []byte("..."))
			if ends && (len(bare) == 3 || bare[3] == ' ' || bare[3] == '\t') {
				if content && !yield(first, body[start:at]) {
					return
				}
				// What follows the dashes in their line belongs to the document, as does its place.
				start, first = at, line
				bare = bytes.TrimLeft(bare[3:], " \t")
				content = false
				if l[0] == '.' {
					start, first = at+len(l), line+1
					bare = nil
				}
			}
			if text := bytes.TrimLeft(bare, " \t"); len(text) > 0 && text[0] != '#' && (content || bare[0] != '%') {
				content = true
			}
			at += len(l)
			line++
		}
		if content {
			yield(first, body[start:])
		}
	}
}

const (
	batchPut    = "put"
	batchDelete = "delete"
)

// batch is a batch that is being read.
type batch struct {
	table      *Table
	limits     Limits
	most       int
	take       func(BatchItem)
	violations Violations
	// items, puts and deletes count what was read; paths holds where each key stands.
	items, puts, deletes int
	paths                map[Key]string
}

func newBatch(t *Table, l Limits, most int, take func(BatchItem)) *batch {
	return &batch{table: t, limits: l.withDefaults(), most: most, take: take, paths: map[Key]string{}}
}

func (b *batch) count() error {
	if b.items++; b.items > b.most {
		return fmt.Errorf("the batch is %w than %d items (limits.batchItems)", ErrTooLarge, b.most)
	}
	return nil
}

// list reads one list of a valid body, one item at a time.
func (b *batch) list(s *validJSON, name string) error {
	if !s.takes('[') {
		if other := s.value(); string(other) != "null" {
			b.violations.Add(name, "must be a list")
		}
		return nil
	}
	for ; !s.takes(']'); s.takes(',') {
		if err := b.count(); err != nil {
			return err
		}
		raw := s.value()
		next := b.puts
		if name == batchDelete {
			next = b.deletes
		}
		path := indexPath(name, next)
		if err := b.limits.fits(len(raw)); err != nil {
			return fmt.Errorf("%s is %w", path, err)
		}
		v, err := (&validJSON{body: raw}).parse(1, b.limits.Depth)
		if name == batchDelete {
			if err != nil {
				b.deletes++
				b.broken(path, err)
				continue
			}
			b.delete(v)
			continue
		}
		if err != nil {
			b.puts++
			b.broken(path, err)
			continue
		}
		if err := b.put(v); err != nil {
			return err
		}
	}
	return nil
}

// broken notes an item that has no form.
func (b *batch) broken(path string, err error) {
	if s, ok := errors.AsType[*SyntaxError](err); ok {
		b.violations.Add(path, s.Message)
		return
	}
	b.violations.Add(path, err.Error())
}

// put reads a resource. The error is that it is too large.
func (b *batch) put(v value) error {
	path := indexPath(batchPut, b.puts)
	b.puts++
	if v.shape != shapeObject {
		b.violations.Add(path, "must be an object, not "+v.shape.String())
		return nil
	}
	kind, ok := b.kind(path, v, func(m string) bool { return metaIndex(m) == metaType })
	if !ok {
		return nil
	}
	in, err := decodeInput(kind, v, b.limits)
	if err != nil {
		var violations Violations
		switch err = kind.Besides(Key{Kind: kind.Kind, Scope: in.Mesh, Name: in.Name}, in, err); {
		case errors.As(err, &violations):
			for _, x := range violations {
				b.violations.Add(Within(path, x.Field), x.Message)
			}
		case errors.Is(err, ErrTooLarge):
			return fmt.Errorf("%s is %w", path, err)
		default:
			b.broken(path, err)
		}
		return nil
	}
	b.keyed(BatchItem{Path: path, Descriptor: kind, Key: Key{Scope: in.Mesh, Name: in.Name}, Input: in})
	return nil
}

// delete reads the key of a resource.
func (b *batch) delete(v value) {
	path := indexPath(batchDelete, b.deletes)
	b.deletes++
	if v.shape != shapeObject {
		b.violations.Add(path, "must be an object with type, mesh and name, not "+v.shape.String())
		return
	}
	var key Key
	good := true
	seen := map[string]bool{}
	for _, m := range v.members {
		at := Within(path, fieldPath("", m.name))
		switch {
		case !slices.Contains([]string{"type", "mesh", "name"}, m.name):
			b.violations.Add(at, unknownField)
			good = false
			continue
		case seen[m.name]:
			b.violations.Add(at, givenTwice)
			good = false
			continue
		case m.value.shape == shapeNull:
		case m.value.shape != shapeString:
			b.violations.Add(at, "must be a string, not "+m.value.shape.String())
			good = false
		case m.name == "mesh":
			key.Scope = m.value.text
		case m.name == "name":
			key.Name = m.value.text
		}
		seen[m.name] = true
	}
	if !good {
		return
	}
	kind, ok := b.kind(path, v, func(m string) bool { return m == "type" })
	if ok {
		b.keyed(BatchItem{Path: path, Descriptor: kind, Key: key, Delete: true})
	}
}

// kind finds the kind of an item.
func (b *batch) kind(path string, v value, isType func(string) bool) (*Descriptor, bool) {
	at := path + ".type"
	for _, m := range v.members {
		if !isType(m.name) || m.value.shape == shapeNull {
			continue
		}
		if m.value.shape != shapeString {
			b.violations.Add(at, "must be a string, not "+m.value.shape.String())
			return nil, false
		}
		d, ok := b.table.ByKind(Kind(m.value.text))
		if !ok || d.Access == Internal {
			b.violations.Add(at, "there is no type "+strconv.Quote(clip(m.value.text)))
			return nil, false
		}
		return d, true
	}
	b.violations.Add(at, mustBeGiven)
	return nil, false
}

const mustBeGiven = "must be given"

// keyed completes an item's key, and hands it on if no other item has it.
func (b *batch) keyed(it BatchItem) {
	it.Key.Kind = it.Descriptor.Kind
	good := true
	if it.Descriptor.Scope == ScopeGlobal {
		it.Key.Scope = ""
	} else if it.Key.Scope == "" {
		b.violations.Add(it.Path+".mesh", mustBeGiven)
		good = false
	}
	if it.Key.Name == "" {
		b.violations.Add(it.Path+".name", mustBeGiven)
		good = false
	}
	if !good {
		return
	}
	if first, twice := b.paths[it.Key]; twice {
		b.violations.Add(it.Path, clip(it.Key.String())+" is in the batch twice: it is "+first+" too")
		return
	}
	b.paths[it.Key] = it.Path
	b.take(it)
}

// Within is the path of a field of what stands at a path itself.
func Within(path, field string) string {
	if path == "" || field == "" || strings.HasPrefix(field, "[") {
		return path + field
	}
	return path + "." + field
}
