package resource

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxAliasGrowth is how many times its own size a document may grow by aliases, unless Limits say otherwise.
	maxAliasGrowth = 10
	// maxYAMLPaths bounds, in bytes, the paths that the parser keeps: one for each of its tokens, as long as
	// all keys above it.
	maxYAMLPaths = 64 << 20
	// maxYAMLSiblings bounds the sum, over all keys, of the number of keys before them in the same block: the
	// parser recurses from each key to the next, and copies what it has at each. It is one of 4,000 keys.
	maxYAMLSiblings = 4000 * 4000 / 2
	// maxYAMLKey is the longest key on one line that YAML itself allows.
	maxYAMLKey = 1024
)

// parseYAML reads one document. Anchors, aliases and merge keys are resolved, numbers become JSON numbers,
// and what JSON cannot say is refused.
func parseYAML(body []byte, l Limits) (v value, err error) {
	if !utf8.Valid(body) {
		return value{}, &SyntaxError{Message: "the body is not valid UTF-8"}
	}
	// The parser is not ours: what it stumbles over is an unreadable body, not the end of the process.
	defer func() {
		if r := recover(); r != nil {
			v, err = value{}, &SyntaxError{Message: "the YAML cannot be read"}
		}
	}()
	tokens := lexer.Tokenize(string(body))
	if err := boundYAML(tokens, l.Depth); err != nil {
		return value{}, err
	}
	// The parser's own check for duplicates does not see into flow style; ours does, and names the path.
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		if y, ok := errors.AsType[yaml.Error](err); ok {
			return value{}, yamlErrorAt(y.GetToken(), y.GetMessage())
		}
		return value{}, &SyntaxError{Message: err.Error()}
	}
	c := yamlConverter{anchors: map[string]value{}, limits: l, budget: l.AliasGrowth * len(body)}
	given := false
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if doc.Body.Type() == ast.DirectiveType {
			continue
		}
		if given {
			return value{}, yamlErrorAt(doc.Body.GetToken(), oneDocument)
		}
		given = true
		if v, err = c.convert(doc.Body, 1); err != nil {
			return value{}, err
		}
	}
	if !given {
		return value{}, &SyntaxError{Line: 1, Column: 1, Message: "the body is empty"}
	}
	return v, nil
}

func yamlErrorAt(t *token.Token, message string) *SyntaxError {
	if t == nil || t.Position == nil {
		return &SyntaxError{Message: message}
	}
	return &SyntaxError{Line: t.Position.Line, Column: t.Position.Column, Message: message}
}

// boundYAML refuses what would make the parser recurse without end, keep paths without measure, or take time
// that grows with the square of the body, before the parser sees it.
func boundYAML(tokens token.Tokens, depth int) error {
	type block struct{ column, keys int }
	var blocks []block // the block collections that are open
	flow, prefixes, start, deepest, longest, documents, siblings := 0, 0, 0, 0, 0, 0, 0
	for i, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow = max(0, flow-1)
		case token.DocumentHeaderType, token.DocumentEndType:
			if documents++; documents > 2 {
				return yamlErrorAt(t, oneDocument)
			}
		}
		// A node stands where its first anchor, tag or question mark does.
		column := t.Position.Column
		switch {
		case t.Type == token.AnchorType, t.Type == token.TagType, t.Type == token.MappingKeyType:
			if prefixes == 0 {
				start = column
			}
			prefixes++
		case i > 0 && tokens[i-1].Type == token.AnchorType: // its name
		case prefixes > 0:
			column, prefixes = start, 0
		}
		key := i+1 < len(tokens) && tokens[i+1].Type == token.MappingValueType
		if key {
			longest = max(longest, len(t.Value))
			if len(t.Value) > maxYAMLKey {
				return yamlErrorAt(t, fmt.Sprintf("a key is longer than %d bytes", maxYAMLKey))
			}
		}
		if flow == 0 && (key || t.Type == token.SequenceEntryType || t.Type == token.MappingKeyType) {
			for len(blocks) > 0 && blocks[len(blocks)-1].column > column {
				blocks = blocks[:len(blocks)-1]
			}
			if len(blocks) == 0 || blocks[len(blocks)-1].column < column {
				blocks = append(blocks, block{column: column})
			}
			if key {
				last := &blocks[len(blocks)-1]
				last.keys++
				siblings += last.keys
			}
		}
		// A list may stand in the column of the key that it belongs to, hence twice.
		if 2*len(blocks)+flow+prefixes > 4*depth {
			return yamlErrorAt(t, tooDeep(depth))
		}
		if siblings > maxYAMLSiblings {
			return yamlErrorAt(t, "too many keys side by side; JSON has no such limit")
		}
		deepest = max(deepest, len(blocks)+flow)
	}
	if len(tokens)*deepest*(longest+8) > maxYAMLPaths {
		return &SyntaxError{Message: "the YAML is too large for its depth and the length of its keys; JSON has no such limit"}
	}
	return nil
}

const oneDocument = "more than one document"

type yamlConverter struct {
	anchors map[string]value
	limits  Limits
	budget  int
}

func (c *yamlConverter) convert(n ast.Node, depth int) (value, error) {
	switch n := n.(type) {
	case nil:
		return value{}, nil
	case *ast.NullNode:
		return value{}, nil
	case *ast.BoolNode:
		return value{shape: shapeBool, truth: n.Value}, nil
	case *ast.StringNode:
		return value{shape: shapeString, text: n.Value}, nil
	case *ast.LiteralNode:
		return value{shape: shapeString, text: n.Value.Value}, nil
	case *ast.IntegerNode:
		return value{shape: shapeNumber, text: fmt.Sprint(n.Value)}, nil
	case *ast.FloatNode:
		if math.IsInf(n.Value, 0) || math.IsNaN(n.Value) {
			return value{}, yamlErrorAt(n.GetToken(), "the number is not finite")
		}
		return value{shape: shapeNumber, text: strconv.FormatFloat(n.Value, 'g', -1, 64)}, nil
	case *ast.TagNode:
		return c.tagged(n, depth)
	case *ast.AnchorNode:
		name := n.Name.GetToken().Value
		// Until the anchor's value is complete, the name stands for nothing: no value can hold itself.
		delete(c.anchors, name)
		v, err := c.convert(n.Value, depth)
		if err != nil {
			return value{}, err
		}
		c.anchors[name] = v
		return v, nil
	case *ast.AliasNode:
		return c.alias(n, depth)
	}
	if depth > c.limits.Depth {
		return value{}, yamlErrorAt(n.GetToken(), tooDeep(c.limits.Depth))
	}
	switch n := n.(type) {
	case *ast.SequenceNode:
		v := value{shape: shapeList}
		for _, item := range n.Values {
			x, err := c.convert(item, depth+1)
			if err != nil {
				return value{}, err
			}
			v.items = append(v.items, x)
		}
		return v, nil
	case *ast.MappingNode:
		return c.mapping(n.Values, depth)
	case *ast.MappingValueNode:
		return c.mapping([]*ast.MappingValueNode{n}, depth)
	}
	return value{}, yamlErrorAt(n.GetToken(), "has no JSON form")
}

func (c *yamlConverter) mapping(entries []*ast.MappingValueNode, depth int) (value, error) {
	v := value{shape: shapeObject}
	var merged []member
	for _, e := range entries {
		x, err := c.convert(e.Value, depth+1)
		if err != nil {
			return value{}, err
		}
		if e.Key.IsMergeKey() {
			if merged, err = mergeInto(merged, x, e); err != nil {
				return value{}, err
			}
			continue
		}
		name, err := yamlKey(e.Key)
		if err != nil {
			return value{}, err
		}
		v.members = append(v.members, member{name, x})
	}
	if len(merged) > 0 {
		own := make(map[string]bool, len(v.members))
		for _, m := range v.members {
			own[m.name] = true
		}
		for _, m := range merged {
			if !own[m.name] {
				own[m.name] = true
				v.members = append(v.members, m)
			}
		}
	}
	return v, nil
}

// mergeInto collects the members that a merge key brings: those of one object, or of a list of them.
func mergeInto(merged []member, v value, at ast.Node) ([]member, error) {
	switch v.shape {
	case shapeObject:
		return append(merged, v.members...), nil
	case shapeList:
		for _, item := range v.items {
			if item.shape != shapeObject {
				return nil, yamlErrorAt(at.GetToken(), "only objects can be merged")
			}
			merged = append(merged, item.members...)
		}
		return merged, nil
	}
	return nil, yamlErrorAt(at.GetToken(), "only objects can be merged")
}

func yamlKey(n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.MappingKeyNode:
		return yamlKey(n.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return n.GetToken().Value, nil
	}
	return "", yamlErrorAt(n.GetToken(), "a key must be a plain string")
}

func (c *yamlConverter) tagged(n *ast.TagNode, depth int) (value, error) {
	switch tag := strings.TrimSpace(n.Start.Value); tag {
	case "!!str":
		switch s := n.Value.(type) {
		case *ast.StringNode, *ast.LiteralNode:
			return c.convert(s, depth)
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
			return value{shape: shapeString, text: s.GetToken().Value}, nil
		}
	case "!!map", "!!seq", "!!int", "!!float", "!!bool", "!!null":
		return c.convert(n.Value, depth)
	}
	return value{}, yamlErrorAt(n.Start, "this tag has no JSON form")
}

func (c *yamlConverter) alias(n *ast.AliasNode, depth int) (value, error) {
	name := n.Value.GetToken().Value
	v, ok := c.anchors[name]
	if !ok {
		return value{}, yamlErrorAt(n.Start, fmt.Sprintf("no anchor %q before this alias", clip(name)))
	}
	// Values are shared, not copied; what costs is walking them later, so that is what the budget counts.
	height, ok := c.spend(v)
	if !ok {
		return value{}, yamlErrorAt(n.Start, fmt.Sprintf("aliases let the document grow more than %d times (limits.yamlAliasGrowth)", c.limits.AliasGrowth))
	}
	if depth+height-1 > c.limits.Depth {
		return value{}, yamlErrorAt(n.Start, tooDeep(c.limits.Depth))
	}
	return v, nil
}

// spend takes the size of a value from the budget, and returns how many lists and objects deep it is.
func (c *yamlConverter) spend(v value) (height int, ok bool) {
	c.budget -= 1 + len(v.text)
	if c.budget < 0 {
		return 0, false
	}
	inner := func(x value) bool {
		h, ok := c.spend(x)
		height = max(height, h)
		return ok
	}
	for _, x := range v.items {
		if !inner(x) {
			return 0, false
		}
	}
	for _, x := range v.members {
		c.budget -= len(x.name)
		if !inner(x.value) {
			return 0, false
		}
	}
	if v.shape == shapeList || v.shape == shapeObject {
		height++
	}
	return height, true
}
