package resource

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// MaxSpecBytes is the size of the largest body, and of the largest stored spec, unless Limits say otherwise: 512 KiB.
const MaxSpecBytes = 512 << 10

// ErrTooLarge is found by errors.Is in the error of a body or a spec that is larger than allowed.
var ErrTooLarge = errors.New("larger")

// Input is a body as it was given: nothing is defaulted, and nothing validated beyond its shape.
type Input struct {
	Type       Kind
	Mesh, Name string
	// HasType, HasMesh and HasName tell a key that was given from one that was left out or null.
	HasType, HasMesh, HasName bool
	// Spec is a message of the descriptor's kind.
	Spec proto.Message
	// Warnings say what was given in the shape of an older era, and as what it was read.
	Warnings []string
}

// DecodeJSON reads the public JSON form of a kind: metadata and spec side by side. It returns a *SyntaxError
// where the body is no JSON object, ErrTooLarge, or, with an Input of what could be read, Violations that name every
// unknown and mistyped field.
func DecodeJSON(d *Descriptor, body []byte) (Input, error) { return Limits{}.DecodeJSON(d, body) }

// DecodeYAML is DecodeJSON for a body of one YAML document.
func DecodeYAML(d *Descriptor, body []byte) (Input, error) { return Limits{}.DecodeYAML(d, body) }

func decodeInput(d *Descriptor, v value, l Limits) (Input, error) {
	if v.shape != shapeObject {
		return Input{}, &SyntaxError{Line: 1, Column: 1, Message: "the body must be an object, not " + v.shape.String()}
	}
	in := Input{Spec: d.New()}
	var dec decoder
	spec := value{shape: shapeObject, members: make([]member, 0, len(v.members))}
	var seen [len(metaKeys)]bool
	for _, m := range v.members {
		i := metaIndex(m.name)
		if i < 0 {
			spec.members = append(spec.members, m)
			continue
		}
		if seen[i] {
			dec.violations.Add(metaKeys[i], givenTwice)
			continue
		}
		seen[i] = true
		dec.meta(&in, i, m.value)
	}
	for _, convert := range converters(d.Kind) {
		spec = convert(&conversion{decoder: &dec, name: in.Name}, spec)
	}
	dec.message("", in.Spec.ProtoReflect(), spec)
	in.Warnings = dec.warnings
	for _, path := range dec.hidden {
		if !d.keepsKey(path, in.Spec) {
			dec.violations.Add(path, notBase64)
		}
	}
	checkConfs(&dec.violations, in.Spec)
	if err := dec.violations.Err(); err != nil {
		return in, err
	}
	if err := l.fits(proto.Size(in.Spec)); err != nil {
		return Input{}, err
	}
	return in, nil
}

// Besides adds to the violations of a body that could not be read whole, which err is, what the kind's rules say of the
// rest, in, but for what a field that could not be read may be the reason of. Any other error stays as it is.
func (d *Descriptor) Besides(k Key, in Input, err error) error {
	var unread Violations
	if !errors.As(err, &unread) || in.Spec == nil {
		return err
	}
	all := slices.Clone(unread)
	for _, x := range d.check(k, in.Spec) {
		if !slices.ContainsFunc(unread, func(u Violation) bool { return below(x.Field, u.Field) || below(u.Field, x.Field) }) {
			all.Add(x.Field, x.Message)
		}
	}
	return all
}

// check completes a spec in place, and lists all that is wrong with it.
func (d *Descriptor) check(k Key, m proto.Message) Violations {
	if d.Default != nil {
		d.Default(k, m)
	}
	if d.Validate == nil {
		return nil
	}
	return d.Validate(k, m)
}

// below says whether a path is another one or leads on from it.
func below(path, from string) bool {
	rest, ok := strings.CutPrefix(path, from)
	return ok && (rest == "" || from == "" || rest[0] == '.' || rest[0] == '[')
}

const (
	metaType = iota
	metaMesh
	metaName
	metaCreated
	metaModified
)

var metaKeys = [...]string{"type", "mesh", "name", "creationTime", "modificationTime"} //nolint:gochecknoglobals // never changes

// metaIndex matches without regard to case, as the published release does.
func metaIndex(name string) int {
	for i, k := range metaKeys {
		if strings.EqualFold(k, name) {
			return i
		}
	}
	return -1
}

type decoder struct {
	violations Violations
	warnings   []string
	// hidden are the paths of bytes that are given as Hidden, which only keys may be.
	hidden []string
}

func (d *decoder) meta(in *Input, i int, v value) {
	if v.shape == shapeNull {
		return
	}
	if v.shape != shapeString {
		d.mistyped(metaKeys[i], "a string", v)
		return
	}
	switch i {
	case metaType:
		in.Type, in.HasType = Kind(v.text), true
	case metaMesh:
		in.Mesh, in.HasMesh = v.text, true
	case metaName:
		in.Name, in.HasName = v.text, true
	case metaCreated, metaModified:
		// Read and forgotten: clients send back what they got, and the store knows better.
		if _, err := time.Parse(time.RFC3339Nano, v.text); err != nil {
			d.violations.Add(metaKeys[i], notTimestamp)
		}
	}
}

const (
	notTimestamp = `must be an RFC 3339 time, such as "2021-02-18T18:46:42Z"`
	unknownField = "unknown field"
	givenTwice   = "given more than once"
	notDuration  = `must be a duration, such as "1m30s" or "200ms"`
	notBase64    = "must be base64 with padding"
)

func (d *decoder) mistyped(path, want string, got value) {
	d.violations.Add(path, fmt.Sprintf("must be %s, not %s", want, got.shape))
}

// maxPathKey bounds what one key of a body adds to the paths of all that stands below it.
const maxPathKey = 256

func clip(s string) string {
	if len(s) <= maxPathKey {
		return s
	}
	return strings.ToValidUTF8(s[:maxPathKey], "") + "…"
}

// fieldPath appends a field's name. A name that no field could have is quoted as a key.
func fieldPath(path, name string) string {
	for _, c := range name {
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return keyPath(path, name)
		}
	}
	switch {
	case name == "":
		return keyPath(path, name)
	case path == "":
		return clip(name)
	}
	return path + "." + clip(name)
}

func keyPath(path, key string) string { return path + "[" + strconv.Quote(clip(key)) + "]" }

func indexPath(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// message fills m from an object. Fields go by their JSON name or their name in the schema.
func (d *decoder) message(path string, m protoreflect.Message, v value) {
	if v.shape != shapeObject {
		d.mistyped(path, "an object", v)
		return
	}
	fields := m.Descriptor().Fields()
	seen := make(map[protoreflect.FieldNumber]bool, len(v.members))
	for _, x := range v.members {
		fd := fields.ByJSONName(x.name)
		if fd == nil {
			fd = fields.ByName(protoreflect.Name(x.name))
		}
		at := fieldPath(path, x.name)
		switch {
		case fd == nil:
			d.violations.Add(at, unknownField)
			continue
		case seen[fd.Number()]:
			d.violations.Add(at, givenTwice)
			continue
		}
		seen[fd.Number()] = true
		if x.value.shape == shapeNull {
			continue
		}
		if of := fd.ContainingOneof(); of != nil && m.WhichOneof(of) != nil {
			d.violations.Add(at, fmt.Sprintf("cannot be given together with %q", m.WhichOneof(of).JSONName()))
			continue
		}
		d.field(fieldPath(path, fd.JSONName()), m, fd, x.value)
	}
}

func (d *decoder) field(path string, m protoreflect.Message, fd protoreflect.FieldDescriptor, v value) {
	switch {
	case fd.IsMap():
		if v.shape != shapeObject {
			d.mistyped(path, "an object", v)
			return
		}
		d.mapField(path, m.Mutable(fd).Map(), fd, v.members)
	case fd.IsList():
		if v.shape != shapeList {
			d.mistyped(path, "a list", v)
			return
		}
		list := m.Mutable(fd).List()
		for i, item := range v.items {
			if x, ok := d.single(indexPath(path, i), fd, list.NewElement, item); ok {
				list.Append(x)
			}
		}
	default:
		if x, ok := d.single(path, fd, func() protoreflect.Value { return m.NewField(fd) }, v); ok {
			m.Set(fd, x)
		}
	}
}

func (d *decoder) mapField(path string, m protoreflect.Map, fd protoreflect.FieldDescriptor, members []member) {
	tags := isTags(fd)
	given := make(map[string]bool, len(members))
	for _, x := range members {
		given[x.name] = true
	}
	for _, x := range members {
		key := x.name
		if tags {
			key = WellKnownTag(key)
			if key != x.name {
				if given[key] {
					d.violations.Add(keyPath(path, x.name), fmt.Sprintf("is read as %q, which is given too", key))
					continue
				}
				d.warn(readTag(x.name, key))
			}
		}
		at := keyPath(path, key)
		k := protoreflect.ValueOfString(key).MapKey()
		if m.Has(k) {
			d.violations.Add(at, givenTwice)
			continue
		}
		if v, ok := d.single(at, fd.MapValue(), m.NewValue, x.value); ok {
			m.Set(k, v)
		}
	}
}

// single decodes one value that is neither a list nor a map.
func (d *decoder) single(path string, fd protoreflect.FieldDescriptor, make func() protoreflect.Value, v value) (protoreflect.Value, bool) {
	if fd.Message() == nil {
		return d.scalar(path, fd, v)
	}
	x := make()
	msg := x.Message()
	switch m := msg.Interface().(type) {
	case *durationpb.Duration:
		return x, d.duration(path, m, v)
	case *timestamppb.Timestamp:
		return x, d.timestamp(path, m, v)
	case *structpb.Struct:
		return x, d.structure(path, m, v)
	case *structpb.Value:
		return x, d.anything(path, m, v)
	}
	if isWrapper(fd.Message()) {
		inner := fd.Message().Fields().ByNumber(1)
		s, ok := d.scalar(path, inner, v)
		if ok {
			msg.Set(inner, s)
		}
		return x, ok
	}
	d.message(path, msg, v)
	return x, true
}

func isWrapper(md protoreflect.MessageDescriptor) bool {
	return md.ParentFile().Path() == "google/protobuf/wrappers.proto"
}

func (d *decoder) duration(path string, m *durationpb.Duration, v value) bool {
	if v.shape != shapeString {
		d.violations.Add(path, notDuration)
		return false
	}
	x, err := time.ParseDuration(v.text)
	if err != nil {
		d.violations.Add(path, notDuration)
		return false
	}
	proto.Merge(m, durationpb.New(x))
	return true
}

func (d *decoder) timestamp(path string, m *timestamppb.Timestamp, v value) bool {
	if v.shape == shapeString {
		if t, err := time.Parse(time.RFC3339Nano, v.text); err == nil {
			if x := timestamppb.New(t); x.IsValid() {
				proto.Merge(m, x)
				return true
			}
		}
	}
	d.violations.Add(path, notTimestamp)
	return false
}

func (d *decoder) structure(path string, m *structpb.Struct, v value) bool {
	if v.shape != shapeObject {
		d.mistyped(path, "an object", v)
		return false
	}
	if len(v.members) > 0 {
		m.Fields = make(map[string]*structpb.Value, len(v.members))
	}
	good := true
	for _, x := range v.members {
		at := fieldPath(path, x.name)
		if _, twice := m.Fields[x.name]; twice {
			d.violations.Add(at, givenTwice)
			good = false
			continue
		}
		y := &structpb.Value{}
		good = d.anything(at, y, x.value) && good
		m.Fields[x.name] = y
	}
	return good
}

func (d *decoder) anything(path string, m *structpb.Value, v value) bool {
	switch v.shape {
	case shapeBool:
		m.Kind = &structpb.Value_BoolValue{BoolValue: v.truth}
	case shapeNumber:
		f, err := strconv.ParseFloat(v.text, 64)
		if err != nil {
			d.violations.Add(path, "is a number out of range")
			return false
		}
		m.Kind = &structpb.Value_NumberValue{NumberValue: f}
	case shapeString:
		m.Kind = &structpb.Value_StringValue{StringValue: v.text}
	case shapeList:
		list := &structpb.ListValue{Values: make([]*structpb.Value, len(v.items))}
		m.Kind = &structpb.Value_ListValue{ListValue: list}
		good := true
		for i, x := range v.items {
			list.Values[i] = &structpb.Value{}
			good = d.anything(indexPath(path, i), list.Values[i], x) && good
		}
		return good
	case shapeObject:
		s := &structpb.Struct{}
		m.Kind = &structpb.Value_StructValue{StructValue: s}
		return d.structure(path, s, v)
	default:
		m.Kind = &structpb.Value_NullValue{}
	}
	return true
}

func (d *decoder) scalar(path string, fd protoreflect.FieldDescriptor, v value) (protoreflect.Value, bool) {
	var none protoreflect.Value
	switch fd.Kind() {
	case protoreflect.BoolKind:
		if v.shape != shapeBool {
			d.mistyped(path, "a boolean", v)
			return none, false
		}
		return protoreflect.ValueOfBool(v.truth), true
	case protoreflect.StringKind:
		if v.shape != shapeString {
			d.mistyped(path, "a string", v)
			return none, false
		}
		return protoreflect.ValueOfString(v.text), true
	case protoreflect.BytesKind:
		if v.shape != shapeString {
			d.mistyped(path, "a base64 string", v)
			return none, false
		}
		b, err := base64.StdEncoding.DecodeString(v.text)
		if err != nil && v.text == Hidden {
			d.hidden = append(d.hidden, path)
			return protoreflect.ValueOfBytes([]byte(Hidden)), true
		}
		if err != nil {
			d.violations.Add(path, notBase64)
			return none, false
		}
		return protoreflect.ValueOfBytes(b), true
	case protoreflect.EnumKind:
		return d.enum(path, fd.Enum(), v)
	}
	if v.shape != shapeNumber && v.shape != shapeString {
		d.mistyped(path, "a number", v)
		return none, false
	}
	x, message := number(fd.Kind(), v.text)
	if message != "" {
		d.violations.Add(path, message)
		return none, false
	}
	return x, true
}

func number(kind protoreflect.Kind, text string) (protoreflect.Value, string) {
	var none protoreflect.Value
	whole := func(low int64, high uint64) string {
		return fmt.Sprintf("must be a whole number from %d to %d", low, high)
	}
	switch kind {
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return none, whole(0, math.MaxUint32)
		}
		return protoreflect.ValueOfUint32(uint32(n)), ""
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return none, whole(0, math.MaxUint64)
		}
		return protoreflect.ValueOfUint64(n), ""
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return none, whole(math.MinInt32, math.MaxInt32)
		}
		return protoreflect.ValueOfInt32(int32(n)), ""
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return none, whole(math.MinInt64, math.MaxInt64)
		}
		return protoreflect.ValueOfInt64(n), ""
	case protoreflect.FloatKind:
		f, err := strconv.ParseFloat(text, 32)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return none, "must be a number"
		}
		return protoreflect.ValueOfFloat32(float32(f)), ""
	default:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return none, "must be a number"
		}
		return protoreflect.ValueOfFloat64(f), ""
	}
}

func (d *decoder) enum(path string, ed protoreflect.EnumDescriptor, v value) (protoreflect.Value, bool) {
	var known protoreflect.EnumValueDescriptor
	switch v.shape {
	case shapeString:
		known = ed.Values().ByName(protoreflect.Name(v.text))
	case shapeNumber:
		if n, err := strconv.ParseInt(v.text, 10, 32); err == nil {
			known = ed.Values().ByNumber(protoreflect.EnumNumber(n))
		}
	}
	if known == nil {
		names := make([]string, ed.Values().Len())
		for i := range names {
			names[i] = string(ed.Values().Get(i).Name())
		}
		d.violations.Add(path, "must be one of "+strings.Join(names, ", "))
		return protoreflect.Value{}, false
	}
	return protoreflect.ValueOfEnum(known.Number()), true
}
