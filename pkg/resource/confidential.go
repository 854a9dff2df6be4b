package resource

import (
	"iter"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Hidden stands for a private key in what is shown to those who may not see it. A write that has it in the place
// of a key keeps the key that is stored there.
const Hidden = "*****"

// Confidential says whether specs of the kind may hold private keys: whether its schema marks a field
// (debug_redact). Such specs are encrypted at rest, and shown by way of Conceal.
func (d *Descriptor) Confidential() bool { return d.marks != nil }

// Conceal gives an object as those see it who may not see private keys: with Hidden in their places. It is o itself
// where there is none.
func Conceal(d *Descriptor, o *Object) (*Object, error) {
	if d.marks == nil {
		return o, nil
	}
	m, err := o.Message(d)
	if err != nil {
		return nil, err
	}
	c := ConcealMessage(d, m)
	if c == m {
		return o, nil
	}
	spec, err := Encode(c)
	if err != nil {
		return nil, err
	}
	return &Object{
		Key: o.Key, Origin: o.Origin, Revision: o.Revision, SpecRevision: o.SpecRevision,
		Created: o.Created, Modified: o.Modified, Spec: spec,
	}, nil
}

// ConcealMessage is Conceal for a spec; it leaves m as it is.
func ConcealMessage(d *Descriptor, m proto.Message) proto.Message {
	for k := range d.marks.keysIn(m) {
		if k.value == "" {
			continue
		}
		c := proto.Clone(m)
		for k := range d.marks.keysIn(c) {
			if k.value != "" {
				k.set(Hidden)
			}
		}
		return c
	}
	return m
}

// HasHidden says whether a spec has Hidden in the place of a key.
func HasHidden(d *Descriptor, m proto.Message) bool {
	for k := range d.marks.keysIn(m) {
		if k.value == Hidden {
			return true
		}
	}
	return false
}

// keepsKey says whether what errors call path is the place of a key in a spec.
func (d *Descriptor) keepsKey(path string, m proto.Message) bool {
	for k := range d.marks.keysIn(m) {
		if k.path == path {
			return true
		}
	}
	return false
}

// Reveal puts the keys of old, nil where there is nothing yet, into the places in which m has Hidden. An item of a
// list is found by its name, one without by its index. It says where there is no key to keep.
func Reveal(d *Descriptor, m, old proto.Message) Violations {
	stored := map[string]string{}
	if old != nil {
		for k := range d.marks.keysIn(old) {
			if k.value != "" {
				stored[k.id] = k.value
			}
		}
	}
	var v Violations
	for k := range d.marks.keysIn(m) {
		if k.value != Hidden {
			continue
		}
		if kept, ok := stored[k.id]; ok {
			k.set(kept)
		} else {
			v.Add(k.path, "is "+Hidden+", which keeps the key that is stored, and there is none: give the key itself")
		}
	}
	return v
}

// marks lead to the marked fields of a message.
type marks []mark

type mark struct {
	field protoreflect.FieldDescriptor
	// inner are those below the field, which is a message then; nil: the field itself is marked.
	inner marks
}

// marksOf finds the marked fields of a message. above are the messages that it stands in: one that is within itself
// is not looked into again.
func marksOf(md protoreflect.MessageDescriptor, above ...protoreflect.FullName) marks {
	for _, name := range above {
		if name == md.FullName() {
			return nil
		}
	}
	var found marks
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		if fd.Message() == nil || fd.IsMap() {
			continue
		}
		if isMarked(fd) {
			found = append(found, mark{field: fd})
		} else if inner := marksOf(fd.Message(), append(above, md.FullName())...); inner != nil {
			found = append(found, mark{fd, inner})
		}
	}
	return found
}

func isMarked(fd protoreflect.FieldDescriptor) bool {
	o, ok := fd.Options().(*descriptorpb.FieldOptions)
	return ok && o.GetDebugRedact()
}

// inlineKey is a place for a private key.
type inlineKey struct {
	// path is what errors call it; id finds the same place in another version of the object.
	path, id string
	value    string
	set      func(string)
}

func (s marks) keysIn(m proto.Message) iter.Seq[inlineKey] {
	return func(yield func(inlineKey) bool) { s.walk("", "", m.ProtoReflect(), yield) }
}

func (s marks) walk(path, id string, m protoreflect.Message, yield func(inlineKey) bool) bool {
	for _, x := range s {
		if !m.Has(x.field) {
			continue
		}
		at, in := fieldPath(path, x.field.JSONName()), fieldPath(id, x.field.JSONName())
		if !x.field.IsList() {
			if !x.one(at, in, m.Get(x.field).Message(), yield) {
				return false
			}
			continue
		}
		list := m.Get(x.field).List()
		for i := range list.Len() {
			item := list.Get(i).Message()
			if !x.one(indexPath(at, i), in+itemID(i, item), item, yield) {
				return false
			}
		}
	}
	return true
}

func itemID(i int, item protoreflect.Message) string {
	if fd := item.Descriptor().Fields().ByName("name"); fd != nil && fd.Kind() == protoreflect.StringKind && !fd.IsList() {
		return "[" + strconv.Quote(item.Get(fd).String()) + "]"
	}
	return indexPath("", i)
}

func (x mark) one(path, id string, m protoreflect.Message, yield func(inlineKey) bool) bool {
	if x.inner != nil {
		return x.inner.walk(path, id, m, yield)
	}
	switch m := m.Interface().(type) {
	case *meshv1.DataSource:
		switch s := m.GetType().(type) {
		case *meshv1.DataSource_Inline:
			return s.Inline == nil || yield(inlineKey{path + ".inline", id + ".inline", string(s.Inline.GetValue()), func(k string) { s.Inline.Value = []byte(k) }})
		case *meshv1.DataSource_InlineString:
			return yield(inlineKey{path + ".inlineString", id + ".inlineString", s.InlineString, func(k string) { s.InlineString = k }})
		}
	case *structpb.Struct:
		// The free object of a provided authority; errors call it "config".
		key := m.GetFields()["key"].GetStructValue().GetFields()
		path = path[:len(path)-len(x.field.JSONName())] + "config.key"
		for _, name := range []string{"inline", "inlineString"} {
			if s, ok := key[name].GetKind().(*structpb.Value_StringValue); ok {
				if !yield(inlineKey{path + "." + name, id + "." + name, s.StringValue, func(k string) { s.StringValue = k }}) {
					return false
				}
			}
		}
	}
	return true
}
