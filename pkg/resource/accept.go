package resource

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxMessageDepth is how deep stored messages may nest. One level of JSON takes up to four of protobuf, in a
// free object in a list.
const maxMessageDepth = 4 * MaxDepth

// Accept says whether a store may take an object from a peer: the key's shape and owner, the spec's size,
// its encoding, and all that the kind's validator asks for. k is the key under which the receiver would keep
// the object: at the global control plane that of a zone's object starts with "<zone>.". origin is as the
// receiver would keep it, too. The error names what is wrong; ErrUnknownKind and ErrTooLarge can be told apart.
func Accept(t *Table, k Key, origin Origin, spec []byte) error {
	return Limits{}.Accept(t, k, origin, spec)
}

// Accept is the function of this name, under these limits but that of depth, which bounds what users send.
func (l Limits) Accept(t *Table, k Key, origin Origin, spec []byte) error {
	d, ok := t.ByKind(k.Kind)
	if !ok {
		return fmt.Errorf("%w %q", ErrUnknownKind, clip(string(k.Kind)))
	}
	if err := acceptKey(d, k, origin); err != nil {
		return err
	}
	if err := l.CheckSize(spec); err != nil {
		return err
	}
	m := d.New()
	if err := (proto.UnmarshalOptions{RecursionLimit: maxMessageDepth}).Unmarshal(spec, m); err != nil {
		return fmt.Errorf("the spec is not a %s: %w", d.Kind, err)
	}
	var v Violations
	checkMessage(&v, "", m.ProtoReflect(), 1)
	if len(v) == 0 && d.Validate != nil {
		v = d.Validate(k, m)
	}
	return v.Err()
}

func acceptKey(d *Descriptor, k Key, origin Origin) error {
	var v Violations
	limit := maxStoredName
	if d.Access == Internal {
		limit = maxInternalName
	}
	if message := storedName(k.Name, limit, d.Access == Internal); message != "" {
		v.Add("name", message)
	}
	switch {
	case d.Scope == ScopeGlobal && k.Scope != "":
		v.Add("mesh", fmt.Sprintf("a %s belongs to no mesh", d.Kind))
	case d.Scope == ScopeMesh:
		if message := storedName(k.Scope, MaxNameLength, false); message != "" {
			v.Add("mesh", message)
		}
	}
	if err := v.Err(); err != nil {
		return err
	}
	flow := d.Flow(k)
	switch origin {
	case Local:
		return nil
	case Global:
		if flow != FlowDown && flow != FlowUpAndOn {
			return fmt.Errorf("a %s named %q does not come from the global control plane", d.Kind, clip(k.Name))
		}
	default:
		if flow != FlowUp && flow != FlowUpAndOn {
			return fmt.Errorf("a %s named %q does not come from a zone", d.Kind, clip(k.Name))
		}
		if !strings.HasPrefix(k.Name, string(origin)+".") {
			return fmt.Errorf("a %s named %q is not of zone %q", d.Kind, clip(k.Name), clip(string(origin)))
		}
	}
	return nil
}

func storedName(name string, limit int, internal bool) string {
	switch {
	case name == "":
		return "cannot be empty"
	case len(name) > limit:
		return fmt.Sprintf("is longer than %d characters", limit)
	case internal:
		if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
			return "has invalid characters"
		}
	case !isNameCharset(name, "-_."):
		return "has invalid characters"
	}
	return ""
}

// checkMessage makes sure that a message which did not come through the decoder still has a JSON form.
func checkMessage(v *Violations, path string, m protoreflect.Message, depth int) {
	if depth > MaxDepth {
		v.Add(path, fmt.Sprintf("nested more than %d deep", MaxDepth))
		return
	}
	switch x := m.Interface().(type) {
	case *durationpb.Duration:
		if !x.IsValid() || !goDuration(x) {
			v.Add(path, "is a duration out of range")
		}
		return
	case *timestamppb.Timestamp:
		if !x.IsValid() {
			v.Add(path, "is a time out of range")
		}
		return
	case *structpb.Struct:
		checkFields(v, path, x, depth)
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		at, x := fieldPath(path, fd.JSONName()), m.Get(fd)
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() == nil {
				continue
			}
			for _, k := range sortedKeys(x.Map()) {
				checkMessage(v, keyPath(at, k), x.Map().Get(protoreflect.ValueOfString(k).MapKey()).Message(), depth+2)
			}
		case fd.IsList():
			for i := range x.List().Len() {
				checkSingle(v, indexPath(at, i), fd, x.List().Get(i), depth+2)
			}
		default:
			checkSingle(v, at, fd, x, depth+1)
		}
	}
}

func checkSingle(v *Violations, path string, fd protoreflect.FieldDescriptor, x protoreflect.Value, depth int) {
	switch {
	case fd.Message() != nil:
		checkMessage(v, path, x.Message(), depth)
	case fd.Kind() == protoreflect.DoubleKind, fd.Kind() == protoreflect.FloatKind:
		checkFinite(v, path, x.Float())
	}
}

func checkFinite(v *Violations, path string, f float64) {
	if f-f != 0 {
		v.Add(path, "is not a finite number")
	}
}

func checkValue(v *Violations, path string, x *structpb.Value, depth int) {
	if depth > MaxDepth {
		v.Add(path, fmt.Sprintf("nested more than %d deep", MaxDepth))
		return
	}
	switch x := x.GetKind().(type) {
	case nil:
		v.Add(path, "has no value")
	case *structpb.Value_NumberValue:
		checkFinite(v, path, x.NumberValue)
	case *structpb.Value_ListValue:
		for i, y := range x.ListValue.GetValues() {
			checkValue(v, indexPath(path, i), y, depth+1)
		}
	case *structpb.Value_StructValue:
		checkFields(v, path, x.StructValue, depth)
	}
}

func checkFields(v *Violations, path string, s *structpb.Struct, depth int) {
	for _, k := range slices.Sorted(maps.Keys(s.GetFields())) {
		checkValue(v, fieldPath(path, k), s.GetFields()[k], depth+1)
	}
}

// goDuration says whether a duration fits into a time.Duration, which is what the decoder reads.
func goDuration(d *durationpb.Duration) bool {
	back := durationpb.New(d.AsDuration())
	return back.GetSeconds() == d.GetSeconds() && back.GetNanos() == d.GetNanos()
}
