package resource

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// EncodeJSON gives the public JSON of one object, with its final newline. The parts follow the spec's fields.
func EncodeJSON(d *Descriptor, o *Object, parts ...Part) ([]byte, error) {
	m, err := o.Message(d)
	if err != nil {
		return nil, err
	}
	return objectJSON(d, o, m, parts)
}

// metaBytes is about what the keys outside of the spec take.
const metaBytes = 256

// objectJSON gives the public JSON of one object, whose spec is m, with its final newline.
func objectJSON(d *Descriptor, o *Object, m proto.Message, parts []Part) ([]byte, error) {
	w := jsonWriter{b: make([]byte, 0, metaBytes+2*len(o.Spec)), hides: d.Confidential()}
	first := w.open('{')
	w.meta(&first, Overview{Type: d.Kind, Mesh: o.Key.Scope, Name: o.Key.Name, Created: o.Created, Modified: o.Modified})
	if err := w.fields(&first, m.ProtoReflect()); err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.Key, err)
	}
	for _, p := range parts {
		w.key(&first, p.Name)
		if err := w.part(p); err != nil {
			return nil, fmt.Errorf("encode %s: %s: %w", o.Key, p.Name, err)
		}
	}
	w.close('}', first)
	return append(w.b, '\n'), nil
}

// EncodeSpec gives a message alone as JSON, without a final newline; {} where nothing is set.
func EncodeSpec(m proto.Message) ([]byte, error) {
	w := jsonWriter{}
	if err := w.message(m.ProtoReflect()); err != nil {
		return nil, err
	}
	return w.b, nil
}

// Overview is a public object that is put together from several: metadata, then named parts.
type Overview struct {
	Type Kind
	// Mesh is left out where it is empty.
	Mesh, Name        string
	Created, Modified time.Time
	Parts             []Part
}

// Part is one key of an Overview.
type Part struct {
	Name string
	// Message is the part's value; where it is nil, Raw is, which must be valid JSON.
	Message proto.Message
	Raw     json.RawMessage
}

// JSON gives the overview as JSON, without a final newline.
func (o Overview) JSON() ([]byte, error) {
	w := jsonWriter{}
	first := w.open('{')
	w.meta(&first, o)
	for _, p := range o.Parts {
		w.key(&first, p.Name)
		if err := w.part(p); err != nil {
			return nil, fmt.Errorf("encode %s %s: %s: %w", o.Type, o.Name, p.Name, err)
		}
	}
	w.close('}', first)
	return w.b, nil
}

func (w *jsonWriter) part(p Part) error {
	if p.Message != nil {
		return w.message(p.Message.ProtoReflect())
	}
	v, err := parseJSON(p.Raw, MaxDepth)
	if err != nil {
		return err
	}
	w.raw(v)
	return nil
}

// jsonWriter writes JSON indented by one space a level. Every container starts with open, which returns the
// "no element yet" that the elements and close take.
type jsonWriter struct {
	b      []byte
	indent int
	// hides says that bytes may stand for a key that is not shown.
	hides bool
}

func (w *jsonWriter) open(c byte) (first bool) {
	w.b = append(w.b, c)
	w.indent++
	return true
}

func (w *jsonWriter) close(c byte, empty bool) {
	w.indent--
	if !empty {
		w.line()
	}
	w.b = append(w.b, c)
}

func (w *jsonWriter) line() {
	w.b = append(w.b, '\n')
	const spaces = "                "
	n := w.indent
	for ; n > len(spaces); n -= len(spaces) {
		w.b = append(w.b, spaces...)
	}
	w.b = append(w.b, spaces[:max(n, 0)]...)
}

func (w *jsonWriter) element(first *bool) {
	if !*first {
		w.b = append(w.b, ',')
	}
	*first = false
	w.line()
}

func (w *jsonWriter) key(first *bool, name string) {
	w.element(first)
	w.string(name)
	w.b = append(w.b, ": "...)
}

func (w *jsonWriter) meta(first *bool, o Overview) {
	w.key(first, metaKeys[metaType])
	w.string(string(o.Type))
	if o.Mesh != "" {
		w.key(first, metaKeys[metaMesh])
		w.string(o.Mesh)
	}
	w.key(first, metaKeys[metaName])
	w.string(o.Name)
	w.key(first, metaKeys[metaCreated])
	w.time(o.Created)
	w.key(first, metaKeys[metaModified])
	w.time(o.Modified)
}

func (w *jsonWriter) time(t time.Time) {
	w.b = append(w.b, '"')
	w.b = t.UTC().AppendFormat(w.b, time.RFC3339Nano)
	w.b = append(w.b, '"')
}

// verbatim says whether a string is its own JSON form: nearly all are.
func verbatim(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

const hexDigits = "0123456789abcdef"

// string escapes what JSON asks for, and the two line separators that JavaScript stumbles over; it leaves
// <, > and & alone.
func (w *jsonWriter) string(s string) {
	w.b = append(w.b, '"')
	if verbatim(s) {
		w.b = append(append(w.b, s...), '"')
		return
	}
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			w.b = append(w.b, '\\', byte(r))
		case r == '\n':
			w.b = append(w.b, '\\', 'n')
		case r == '\r':
			w.b = append(w.b, '\\', 'r')
		case r == '\t':
			w.b = append(w.b, '\\', 't')
		case r < ' ' || r == 0x7f:
			w.b = append(w.b, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
		case r == '\u2028' || r == '\u2029':
			w.b = append(w.b, '\\', 'u', '2', '0', '2', hexDigits[r&15])
		default:
			w.b = utf8.AppendRune(w.b, r)
		}
	}
	w.b = append(w.b, '"')
}

func (w *jsonWriter) raw(v value) {
	switch v.shape {
	case shapeNull:
		w.b = append(w.b, "null"...)
	case shapeBool:
		w.b = strconv.AppendBool(w.b, v.truth)
	case shapeNumber:
		w.b = append(w.b, v.text...)
	case shapeString:
		w.string(v.text)
	case shapeList:
		first := w.open('[')
		for _, x := range v.items {
			w.element(&first)
			w.raw(x)
		}
		w.close(']', first)
	case shapeObject:
		first := w.open('{')
		for _, x := range v.members {
			w.key(&first, x.name)
			w.raw(x.value)
		}
		w.close('}', first)
	}
}

func (w *jsonWriter) message(m protoreflect.Message) error {
	switch x := m.Interface().(type) {
	case *durationpb.Duration:
		if err := x.CheckValid(); err != nil {
			return err
		}
		w.b = append(w.b, '"')
		w.b = append(appendDuration(w.b, x), '"')
		return nil
	case *timestamppb.Timestamp:
		if err := x.CheckValid(); err != nil {
			return err
		}
		t := x.AsTime()
		w.b = append(w.b, '"')
		w.b = t.AppendFormat(w.b, "2006-01-02T15:04:05")
		w.b = append(appendFraction(w.b, t.Nanosecond()), 'Z', '"')
		return nil
	case *structpb.Struct:
		return w.structure(x)
	case *structpb.Value:
		return w.anything(x)
	}
	if md := m.Descriptor(); isWrapper(md) {
		fd := md.Fields().ByNumber(1)
		return w.scalar(fd, m.Get(fd))
	}
	first := w.open('{')
	if err := w.fields(&first, m); err != nil {
		return err
	}
	w.close('}', first)
	return nil
}

// fields writes what is set, in the order of declaration.
func (w *jsonWriter) fields(first *bool, m protoreflect.Message) error {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		w.key(first, fd.JSONName())
		if err := w.field(fd, m.Get(fd)); err != nil {
			return fmt.Errorf("%s: %w", fd.JSONName(), err)
		}
	}
	return nil
}

func (w *jsonWriter) field(fd protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch {
	case fd.IsMap():
		first := w.open('{')
		for _, k := range sortedKeys(v.Map()) {
			w.key(&first, k)
			if err := w.single(fd.MapValue(), v.Map().Get(protoreflect.ValueOfString(k).MapKey())); err != nil {
				return err
			}
		}
		w.close('}', first)
		return nil
	case fd.IsList():
		first := w.open('[')
		for i := range v.List().Len() {
			w.element(&first)
			if err := w.single(fd, v.List().Get(i)); err != nil {
				return err
			}
		}
		w.close(']', first)
		return nil
	}
	return w.single(fd, v)
}

// sortedKeys lists the keys of a map by strings, which is what all maps of the kinds are.
func sortedKeys(m protoreflect.Map) []string {
	keys := make([]string, 0, m.Len())
	for k := range m.Range {
		keys = append(keys, k.String())
	}
	if len(keys) > 1 {
		slices.Sort(keys)
	}
	return keys
}

func (w *jsonWriter) single(fd protoreflect.FieldDescriptor, v protoreflect.Value) error {
	if fd.Message() != nil {
		return w.message(v.Message())
	}
	return w.scalar(fd, v)
}

func (w *jsonWriter) scalar(fd protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch x := v.Interface().(type) {
	case bool:
		w.b = strconv.AppendBool(w.b, x)
	case string:
		w.string(x)
	case []byte:
		if w.hides && string(x) == Hidden {
			w.string(Hidden)
			return nil
		}
		w.string(base64.StdEncoding.EncodeToString(x))
	case int32:
		w.b = strconv.AppendInt(w.b, int64(x), 10)
	case uint32:
		w.b = strconv.AppendUint(w.b, uint64(x), 10)
	case int64:
		w.string(strconv.FormatInt(x, 10))
	case uint64:
		w.string(strconv.FormatUint(x, 10))
	case float32:
		return w.float(float64(x), 32)
	case float64:
		return w.float(x, 64)
	case protoreflect.EnumNumber:
		if known := fd.Enum().Values().ByNumber(x); known != nil {
			w.string(string(known.Name()))
		} else {
			w.b = strconv.AppendInt(w.b, int64(x), 10)
		}
	default:
		return fmt.Errorf("%s has no JSON form", fd.Kind())
	}
	return nil
}

func (w *jsonWriter) float(f float64, bits int) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return errors.New("a number that is not finite has no JSON form")
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	w.b = strconv.AppendFloat(w.b, f, format, -1, bits)
	return nil
}

func (w *jsonWriter) structure(s *structpb.Struct) error {
	first := w.open('{')
	for _, k := range slices.Sorted(maps.Keys(s.GetFields())) {
		w.key(&first, k)
		if err := w.anything(s.Fields[k]); err != nil {
			return err
		}
	}
	w.close('}', first)
	return nil
}

func (w *jsonWriter) anything(v *structpb.Value) error {
	switch x := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		w.b = strconv.AppendBool(w.b, x.BoolValue)
	case *structpb.Value_NumberValue:
		return w.float(x.NumberValue, 64)
	case *structpb.Value_StringValue:
		w.string(x.StringValue)
	case *structpb.Value_ListValue:
		first := w.open('[')
		for _, item := range x.ListValue.GetValues() {
			w.element(&first)
			if err := w.anything(item); err != nil {
				return err
			}
		}
		w.close(']', first)
	case *structpb.Value_StructValue:
		return w.structure(x.StructValue)
	default:
		w.b = append(w.b, "null"...)
	}
	return nil
}

// appendDuration appends seconds with 0, 3, 6 or 9 decimals: 90s, 0.200s, -1.500s.
func appendDuration(b []byte, d *durationpb.Duration) []byte {
	seconds, nanos := d.GetSeconds(), d.GetNanos()
	if seconds < 0 || nanos < 0 {
		b = append(b, '-')
		seconds, nanos = -seconds, -nanos
	}
	b = strconv.AppendInt(b, seconds, 10)
	return append(appendFraction(b, int(nanos)), 's')
}

// appendFraction appends a point and 3, 6 or 9 digits, or nothing for 0.
func appendFraction(b []byte, nanos int) []byte {
	digits := 9
	for ; digits > 0 && nanos%1000 == 0; digits -= 3 {
		nanos /= 1000
	}
	if digits == 0 {
		return b
	}
	b = append(b, '.')
	b = append(b, "000000000"[:digits]...)
	for i := len(b) - 1; nanos > 0; i-- {
		b[i] = byte('0' + nanos%10)
		nanos /= 10
	}
	return b
}
