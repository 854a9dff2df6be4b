package resource

import (
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Schema describes the public JSON of the kind as an OpenAPI 3 schema object. Every call makes a new one.
func (d *Descriptor) Schema() map[string]any {
	types := []any{string(d.Kind)}
	for _, alias := range d.TypeAliases {
		types = append(types, string(alias))
	}
	properties := map[string]any{
		metaKeys[metaType]:     map[string]any{"type": "string", "enum": types},
		metaKeys[metaName]:     map[string]any{"type": "string", "maxLength": MaxNameLength, "pattern": "^[0-9a-z_-]+$"},
		metaKeys[metaCreated]:  map[string]any{"type": "string", "format": "date-time", "readOnly": true},
		metaKeys[metaModified]: map[string]any{"type": "string", "format": "date-time", "readOnly": true},
	}
	if d.Scope == ScopeMesh {
		properties[metaKeys[metaMesh]] = map[string]any{"type": "string", "maxLength": MaxNameLength, "pattern": "^[0-9a-z_-]+$"}
	}
	fields := d.New().ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		properties[fields.Get(i).JSONName()] = fieldSchema(fields.Get(i))
	}
	return map[string]any{
		"type":                 "object",
		"description":          d.Doc,
		"properties":           properties,
		"additionalProperties": false,
	}
}

func fieldSchema(fd protoreflect.FieldDescriptor) map[string]any {
	switch {
	case fd.IsMap():
		return map[string]any{"type": "object", "additionalProperties": singleSchema(fd.MapValue())}
	case fd.IsList():
		return map[string]any{"type": "array", "items": singleSchema(fd)}
	}
	return singleSchema(fd)
}

func singleSchema(fd protoreflect.FieldDescriptor) map[string]any {
	md := fd.Message()
	if md == nil {
		return scalarSchema(fd)
	}
	switch md.FullName() {
	case "google.protobuf.Duration":
		return map[string]any{"type": "string", "format": "duration", "example": "1m30s"}
	case "google.protobuf.Timestamp":
		return map[string]any{"type": "string", "format": "date-time"}
	case "google.protobuf.Struct":
		return map[string]any{"type": "object", "additionalProperties": true}
	case "google.protobuf.Value":
		return map[string]any{}
	}
	if isWrapper(md) {
		return scalarSchema(md.Fields().ByNumber(1))
	}
	properties := map[string]any{}
	for i := range md.Fields().Len() {
		properties[md.Fields().Get(i).JSONName()] = fieldSchema(md.Fields().Get(i))
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}

func scalarSchema(fd protoreflect.FieldDescriptor) map[string]any {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return map[string]any{"type": "boolean"}
	case protoreflect.StringKind:
		return map[string]any{"type": "string"}
	case protoreflect.BytesKind:
		return map[string]any{"type": "string", "format": "byte"}
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return map[string]any{"type": "integer", "format": "int64", "minimum": 0, "maximum": 1<<32 - 1}
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return map[string]any{"type": "integer", "format": "int32"}
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return map[string]any{"type": "string", "format": "uint64"}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return map[string]any{"type": "string", "format": "int64"}
	case protoreflect.FloatKind:
		return map[string]any{"type": "number", "format": "float"}
	case protoreflect.EnumKind:
		var names []any
		for i := range fd.Enum().Values().Len() {
			names = append(names, string(fd.Enum().Values().Get(i).Name()))
		}
		return map[string]any{"type": "string", "enum": names}
	}
	return map[string]any{"type": "number", "format": "double"}
}
