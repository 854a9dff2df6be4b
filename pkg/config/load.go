package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

const (
	// Prefix begins the environment variables that are read. One that names no key is refused.
	Prefix = "MERIDIAN_"
	// aliasPrefix begins the published names of the same variables.
	aliasPrefix = "KUMA_"

	// maxFile bounds a configuration file, in bytes.
	maxFile = 1 << 20
)

// Source is where a configuration comes from.
type Source struct {
	// File is a YAML file; empty is none.
	File string
	// Environ is the environment, as of os.Environ.
	Environ []string
}

// LoadGlobal gives the configuration of a global control plane, complete and valid. The warnings name keys that
// are documented but mean nothing here. An error is one line, which names the file, the line and the key, or
// the variable.
func LoadGlobal(src Source) (*Global, []string, error) {
	c := DefaultGlobal()
	other := DefaultZone()
	warnings, err := load(&c, &other, src)
	if err != nil {
		return nil, nil, err
	}
	c.complete(home(src.Environ))
	return &c, warnings, c.Validate()
}

// LoadZone is LoadGlobal for a zone control plane.
func LoadZone(src Source) (*Zone, []string, error) {
	c := DefaultZone()
	other := DefaultGlobal()
	warnings, err := load(&c, &other, src)
	if err != nil {
		return nil, nil, err
	}
	c.complete(home(src.Environ))
	return &c, warnings, c.Validate()
}

func home(environ []string) string {
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, "HOME="); ok {
			return v
		}
	}
	return ""
}

// key is one leaf of a configuration.
type key struct {
	// path is the nesting of the file with dots: apiServer.http.port.
	path   string
	value  reflect.Value // settable
	secret bool
	help   string
}

// keysOf lists the leaves of a configuration struct, in the order of its fields.
func keysOf(config any) []key { return appendKeys(nil, "", reflect.ValueOf(config).Elem()) }

func appendKeys(keys []key, prefix string, v reflect.Value) []key {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			keys = appendKeys(keys, prefix, v.Field(i))
			continue
		}
		path := prefix + f.Tag.Get("json")
		if f.Type.Kind() == reflect.Struct {
			keys = appendKeys(keys, path+".", v.Field(i))
			continue
		}
		keys = append(keys, key{path: path, value: v.Field(i), secret: f.Tag.Get("secret") != "", help: f.Tag.Get("help")})
	}
	return keys
}

// schema is what may stand in a file or the environment of one kind of control plane.
type schema struct {
	keys map[string]key
	// aliases leads from another name of a key to it.
	aliases map[string]string
	// ignored keys are documented somewhere and mean nothing here; the text says why.
	ignored map[string]string
}

func newSchema(config, other any) schema {
	s := schema{keys: map[string]key{}, aliases: map[string]string{}, ignored: map[string]string{}}
	for _, k := range keysOf(config) {
		s.keys[k.path] = k
	}
	for alias, path := range olderNames() {
		if _, ok := s.keys[path]; ok {
			s.aliases[alias] = path
		} else {
			s.ignored[alias] = ignoredOther
		}
	}
	for path, why := range ignoredKeys() {
		s.ignored[path] = why
	}
	for _, k := range keysOf(other) {
		if _, ok := s.keys[k.path]; !ok {
			s.ignored[k.path] = ignoredOther
		}
	}
	return s
}

func load(config, other any, src Source) (warnings []string, err error) {
	s := newSchema(config, other)
	if src.File != "" {
		if warnings, err = s.file(src.File); err != nil {
			return nil, err
		}
	}
	more, err := s.environment(src.Environ)
	return append(warnings, more...), err
}

func warning(name, why string) string { return fmt.Sprintf("%s is ignored: %s", name, why) }

func (s schema) file(name string) ([]string, error) {
	data, err := readFile(name)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, syntax(name, err)
	}
	docs := slices.DeleteFunc(file.Docs, func(d *ast.DocumentNode) bool { return d.Body == nil })
	if len(docs) == 0 {
		return nil, nil
	}
	if len(docs) > 1 {
		return nil, fmt.Errorf("%s: holds %d documents, only one is taken", name, len(docs))
	}
	var values map[string]any
	if err := yaml.NodeToValue(docs[0].Body, &values); err != nil {
		return nil, syntax(name, err)
	}
	d := document{schema: s, set: map[string]string{}}
	if err := d.walk("", values); err != nil {
		return nil, fmt.Errorf("%s%s: %w", name, lineOf(docs[0].Body, err.path), err)
	}
	return d.warnings, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is not a file", name)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: is larger than %d bytes", name, maxFile)
	}
	return os.ReadFile(name)
}

// syntax makes one line of what the YAML library says in several.
func syntax(name string, err error) error {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil && e.GetToken().Position != nil {
		return fmt.Errorf("%s:%d: %s", name, e.GetToken().Position.Line, e.GetMessage())
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("%s: %s", name, line)
}

// lineOf gives ":7", the line on which a key stands, or nothing where it can't be told (it came by an alias).
func lineOf(n ast.Node, path string) string {
	for part := range strings.SplitSeq(path, ".") {
		found := false
		var values []*ast.MappingValueNode
		switch m := n.(type) {
		case *ast.MappingNode:
			values = m.Values
		case *ast.MappingValueNode:
			values = []*ast.MappingValueNode{m}
		}
		for _, v := range values {
			if t := v.Key.GetToken(); t != nil && t.Value == part {
				if path == part {
					return ":" + strconv.Itoa(t.Position.Line)
				}
				n, path, found = v.Value, strings.TrimPrefix(path, part+"."), true
				break
			}
		}
		if !found {
			return ""
		}
	}
	return ""
}

// document is one file being read.
type document struct {
	schema
	// set gives for each key that has stood in the file the name by which it did.
	set      map[string]string
	warnings []string
}

// fieldError is what is wrong with one key of a file.
type fieldError struct {
	path string
	err  error
}

func (e *fieldError) Error() string { return e.path + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

func (d *document) walk(prefix string, values map[string]any) *fieldError {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := d.entry(prefix+name, values[name]); err != nil {
			return err
		}
	}
	return nil
}

func (d *document) entry(path string, value any) *fieldError {
	if why, ok := d.ignored[path]; ok {
		d.warnings = append(d.warnings, warning(path, why))
		return nil
	}
	to := cmp.Or(d.aliases[path], path)
	if k, ok := d.keys[to]; ok {
		if by, twice := d.set[to]; twice {
			return &fieldError{path, fmt.Errorf("is the same as %s, which is given too", by)}
		}
		d.set[to] = path
		if err := k.set(value); err != nil {
			return &fieldError{path, err}
		}
		return nil
	}
	if !d.group(path + ".") {
		return &fieldError{path, errors.New("unknown key")}
	}
	if value == nil { // a group whose keys are all commented out
		return nil
	}
	values, ok := value.(map[string]any)
	if !ok {
		return &fieldError{path, errors.New("must be a mapping")}
	}
	return d.walk(path+".", values)
}

// group tells whether any key begins so.
func (s schema) group(prefix string) bool {
	for path := range s.keys {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	for path := range s.aliases {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	for path := range s.ignored {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// set takes a value of a YAML file. Nothing at all (a key whose value is commented out) leaves the default.
func (k key) set(value any) error {
	if value == nil {
		return nil
	}
	switch v := k.value.Addr().Interface().(type) {
	case *bool:
		b, ok := value.(bool)
		if !ok {
			return fmt.Errorf("must be true or false, got %v", value)
		}
		*v = b
	case *int:
		return setPort(v, fmt.Sprint(value))
	case *Size, *Count:
		text, err := numberText(value)
		if err != nil {
			return err
		}
		return setNumber(k.value, text)
	case *[]string:
		items, ok := value.([]any)
		if !ok {
			return fmt.Errorf("must be a list, got %v", value)
		}
		list := make([]string, len(items))
		for i, item := range items {
			if list[i], ok = item.(string); !ok {
				return fmt.Errorf("[%d] must be text, got %v", i, item)
			}
		}
		*v = list
	case *string:
		switch text := value.(type) {
		case string:
			*v = text
		case map[string]any:
			// The one key that is YAML itself.
			if k.path != "defaults.mesh" {
				return errors.New("must be text, got a mapping")
			}
			out, err := yaml.Marshal(text)
			if err != nil {
				return err
			}
			*v = string(out)
		default:
			return fmt.Errorf("must be text, got %v", value)
		}
	}
	return nil
}

// setText takes the value of an environment variable.
func (k key) setText(text string) error {
	switch v := k.value.Addr().Interface().(type) {
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("must be true or false, got %q", text)
		}
		*v = b
	case *int:
		return setPort(v, text)
	case *Size, *Count:
		return setNumber(k.value, text)
	case *[]string:
		*v = []string{} // not nil: it is a list in JSON too
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*v = append(*v, item)
			}
		}
	case *string:
		*v = text
	}
	return nil
}

// setPort: every plain number of a configuration is a port.
func setPort(v *int, text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return fmt.Errorf("must be a port from 0 to 65535, got %q", text)
	}
	*v = int(n)
	return nil
}

// Variable gives the environment variable of a key: apiServer.http.port has MERIDIAN_API_SERVER_HTTP_PORT.
func Variable(path string) string { return Prefix + upperSnake(path) }

func upperSnake(path string) string {
	var b strings.Builder
	runes := []rune(path)
	for i, r := range runes {
		switch {
		case r == '.':
			b.WriteByte('_')
			continue
		case i > 0 && unicode.IsUpper(r) && runes[i-1] != '.' &&
			(!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])):
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// environment takes our own variables after the published ones, so that they win.
func (s schema) environment(environ []string) ([]string, error) {
	keys := map[string]key{}
	ignored := map[string]string{}
	for path, why := range s.ignored {
		ignored[variableOf(path)] = why
	}
	for path, k := range s.keys {
		keys[variableOf(path)] = k
	}
	for alias, path := range s.aliases {
		keys[variableOf(alias)] = s.keys[path]
	}
	var warnings []string
	for _, prefix := range []string{aliasPrefix, Prefix} {
		set := map[string]string{}
		for _, e := range environ {
			name, value, _ := strings.Cut(e, "=")
			short, ok := strings.CutPrefix(name, prefix)
			if !ok {
				continue
			}
			k, known := keys[short]
			why, meaningless := ignored[short]
			switch {
			case known:
				if by, twice := set[k.path]; twice && by != name {
					return nil, fmt.Errorf("%s: is the same as %s, which is set too", name, by)
				}
				set[k.path] = name
				if err := k.setText(value); err != nil {
					return nil, fmt.Errorf("%s (%s): %w", name, k.path, err)
				}
			case meaningless:
				warnings = append(warnings, warning(name, why))
			case prefix == Prefix:
				return nil, fmt.Errorf("%s: unknown variable", name)
			}
		}
	}
	return warnings, nil
}

// variableOf gives the variable of a key without its prefix. One group has it irregularly.
func variableOf(path string) string {
	return strings.Replace(upperSnake(path), "HDS_CHECK_DEFAULTS_", "HDS_CHECK_", 1)
}
