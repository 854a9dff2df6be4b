package resource

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// EncodeDocument gives an object as a document that can be written again: its public JSON without the times,
// which are the store's, and without a final newline.
func EncodeDocument(d *Descriptor, k Key, m proto.Message) ([]byte, error) {
	w := jsonWriter{hides: d.Confidential()}
	first := w.open('{')
	for _, meta := range []struct{ name, value string }{{"type", string(d.Kind)}, {"mesh", k.Scope}, {"name", k.Name}} {
		if meta.value != "" {
			w.key(&first, meta.name)
			w.string(meta.value)
		}
	}
	if err := w.fields(&first, m.ProtoReflect()); err != nil {
		return nil, fmt.Errorf("encode %s: %w", k, err)
	}
	w.close('}', first)
	return w.b, nil
}
