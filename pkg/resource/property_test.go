package resource

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

// anyMessage fills a message with anything that its schema allows: what Accept's general checks would take.
func anyMessage(t *rapid.T, m protoreflect.Message, depth int) {
	switch x := m.Interface().(type) {
	case *durationpb.Duration:
		proto.Merge(x, durationpb.New(drawDuration(t)))
		return
	case *timestamppb.Timestamp:
		x.Seconds = rapid.Int64Range(-62135596800, 253402300799).Draw(t, "seconds")
		x.Nanos = rapid.Int32Range(0, 999_999_999).Draw(t, "nanos")
		return
	case *structpb.Struct:
		proto.Merge(x, anyStruct(t, 3))
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !rapid.Bool().Draw(t, "set") || depth > 8 {
			continue
		}
		if of := fd.ContainingOneof(); of != nil && m.WhichOneof(of) != nil {
			continue
		}
		one := func(v protoreflect.Value) protoreflect.Value {
			if fd.IsMap() {
				return anyScalarOrMessage(t, fd.MapValue(), v, depth)
			}
			return anyScalarOrMessage(t, fd, v, depth)
		}
		switch {
		case fd.IsMap():
			x := m.Mutable(fd).Map()
			for range rapid.IntRange(0, 3).Draw(t, "entries") {
				key := rapid.String().Draw(t, "key")
				if isTags(fd) && WellKnownTag(key) != key {
					continue
				}
				x.Set(protoreflect.ValueOfString(key).MapKey(), one(x.NewValue()))
			}
		case fd.IsList():
			x := m.Mutable(fd).List()
			for range rapid.IntRange(0, 3).Draw(t, "elements") {
				x.Append(one(x.NewElement()))
			}
		default:
			m.Set(fd, one(m.NewField(fd)))
		}
	}
}

func drawDuration(t *rapid.T) time.Duration {
	return time.Duration(rapid.Int64().Draw(t, "duration"))
}

func anyScalarOrMessage(t *rapid.T, fd protoreflect.FieldDescriptor, v protoreflect.Value, depth int) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		anyMessage(t, v.Message(), depth+1)
		return v
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.String().Draw(t, "string"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rapid.Float64().Draw(t, "double"))
	}
	t.Fatalf("no generator for %s", fd.Kind())
	return v
}

func anyStruct(t *rapid.T, depth int) *structpb.Struct {
	s := &structpb.Struct{}
	for range rapid.IntRange(0, 3).Draw(t, "fields") {
		if s.Fields == nil {
			s.Fields = map[string]*structpb.Value{}
		}
		s.Fields[rapid.String().Draw(t, "name")] = anyValue(t, depth)
	}
	return s
}

func anyValue(t *rapid.T, depth int) *structpb.Value {
	switch rapid.IntRange(0, 3+min(depth, 2)).Draw(t, "kind") {
	case 0:
		return structpb.NewNullValue()
	case 1:
		return structpb.NewBoolValue(rapid.Bool().Draw(t, "bool"))
	case 2:
		return structpb.NewNumberValue(rapid.Float64().Draw(t, "number"))
	case 3:
		return structpb.NewStringValue(rapid.String().Draw(t, "string"))
	case 4:
		return structpb.NewStructValue(anyStruct(t, depth-1))
	}
	l := &structpb.ListValue{}
	for range rapid.IntRange(0, 3).Draw(t, "items") {
		l.Values = append(l.Values, anyValue(t, depth-1))
	}
	return structpb.NewListValue(l)
}

// publicKind draws a kind that has a public form.
func publicKind(t *rapid.T) *Descriptor {
	var kinds []*Descriptor
	for _, d := range NewTable().All() {
		if d.Access != Internal {
			kinds = append(kinds, d)
		}
	}
	return rapid.SampledFrom(kinds).Draw(t, "kind")
}

// Whatever the schema can hold survives decode -> encode -> decode, as JSON and as YAML, which JSON is.
func TestPropertyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := publicKind(t)
		m := d.New()
		anyMessage(t, m.ProtoReflect(), 0)
		// Free objects have keys of their own; those of known backends are looked at elsewhere.
		dropBackendTypes(m.ProtoReflect())
		spec, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		o := &Object{Key: Key{Kind: d.Kind, Scope: "m", Name: "n"}, Spec: spec}
		first, err := EncodeJSON(d, o)
		if err != nil {
			t.Fatal(err)
		}
		in, err := DecodeJSON(d, first)
		if err != nil {
			t.Fatalf("%v in\n%s", err, first)
		}
		if diff := cmp.Diff(m, in.Spec, protocmp.Transform()); diff != "" {
			t.Fatalf("%s\n%s", first, diff)
		}
		again, err := Encode(in.Spec)
		if err != nil {
			t.Fatal(err)
		}
		second, err := EncodeJSON(d, &Object{Key: o.Key, Spec: again})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(first), string(second)); diff != "" {
			t.Fatal(diff)
		}
		if err := Accept(NewTable(), o.Key, Local, spec); err != nil {
			var v Violations
			if !errors.As(err, &v) || strings.Contains(v.Error(), "out of range") {
				t.Fatal(err)
			}
		}
	})
}

func dropBackendTypes(m protoreflect.Message) {
	for fd, v := range m.Range {
		switch {
		case fd.Name() == "type" && fd.Kind() == protoreflect.StringKind:
			m.Clear(fd)
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				dropBackendTypes(v.List().Get(i).Message())
			}
		case fd.Message() != nil && !fd.IsMap():
			dropBackendTypes(v.Message())
		}
	}
}

// No body and no stored bytes, however close to valid ones, may panic; and what is taken encodes and reads
// back as the same.
func TestPropertyMutations(t *testing.T) {
	table := NewTable()
	corpus := seeds(t)
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SampledFrom(corpus).Draw(t, "seed")
		body := mutate(t, seed.body)
		for _, decode := range []func(*Descriptor, []byte) (Input, error){DecodeJSON, DecodeYAML} {
			if in, err := decode(seed.kind, body); err == nil {
				checkTaken(t, seed.kind, in)
			}
		}
		in, err := DecodeYAML(seed.kind, seed.body)
		if err != nil {
			t.Fatal(err)
		}
		spec, err := Encode(in.Spec)
		if err != nil {
			t.Fatal(err)
		}
		k := Key{Kind: seed.kind.Kind, Scope: "m", Name: "n"}
		if seed.kind.Scope == ScopeGlobal {
			k.Scope = ""
		}
		checkAccepted(t, table, k, mutate(t, spec))
	})
}

func mutate(t *rapid.T, b []byte) []byte {
	b = append([]byte(nil), b...)
	for range rapid.IntRange(1, 6).Draw(t, "mutations") {
		if len(b) == 0 {
			return b
		}
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		j := min(len(b), i+rapid.IntRange(1, 12).Draw(t, "length"))
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0:
			b[i] = rapid.Byte().Draw(t, "byte")
		case 1:
			b = append(b[:i:i], b[j:]...)
		case 2:
			b = append(b[:j:j], b[i:]...)
		case 3:
			part := rapid.SampledFrom([]string{"{", "}", "[", "]", ",", ":", `"`, "null", "-1", "1e9", "0s", "\n", "- ", "&a ", "*a", "? ", "!!str ", "<<: "}).Draw(t, "part")
			b = append(b[:i:i], append([]byte(part), b[i:]...)...)
		}
	}
	return b
}
