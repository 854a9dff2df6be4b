package resource_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/resource/resourcetest"
)

func kindOf(t testing.TB, k resource.Kind) *resource.Descriptor {
	t.Helper()
	d, ok := resource.NewTable().ByKind(k)
	if !ok {
		t.Fatalf("no kind %s", k)
	}
	return d
}

func specOf(t testing.TB, d *resource.Descriptor, body string) proto.Message {
	t.Helper()
	in, err := resource.DecodeJSON(d, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return in.Spec
}

func jsonOf(t testing.TB, m proto.Message) string {
	t.Helper()
	b, err := resource.EncodeSpec(m)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), "")
}

const (
	twoKeys = `{"mtls":{"backends":[
		{"name":"a","type":"provided","conf":{"cert":{"inline":"Y2VydA=="},"key":{"inline":"a2V5"}}},
		{"name":"b","type":"provided","conf":{"cert":{"inlineString":"cert"},"key":{"inlineString":"key"}}},
		{"name":"c","type":"provided","conf":{"cert":{"secret":"cert"},"key":{"secret":"key"}}}]}}`
	external = `{"networking":{"address":"a:1","tls":{"caCert":{"inline":"Y2E="},"clientCert":{"inlineString":"cert"},"clientKey":{"inline":"a2V5"}}}}`
)

func TestConceal(t *testing.T) {
	for _, c := range []struct {
		kind       resource.Kind
		body, want string
	}{
		{resource.KindMesh, twoKeys, `{"mtls":{"backends":[` +
			`{"name":"a","type":"provided","conf":{"cert":{"inline":"Y2VydA=="},"key":{"inline":"*****"}}},` +
			`{"name":"b","type":"provided","conf":{"cert":{"inlineString":"cert"},"key":{"inlineString":"*****"}}},` +
			`{"name":"c","type":"provided","conf":{"cert":{"secret":"cert"},"key":{"secret":"key"}}}]}}`},
		{
			resource.KindExternalService, external,
			`{"networking":{"address":"a:1","tls":{"caCert":{"inline":"Y2E="},"clientCert":{"inlineString":"cert"},"clientKey":{"inline":"*****"}}}}`,
		},
	} {
		d := kindOf(t, c.kind)
		m := specOf(t, d, c.body)
		spec, err := resource.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		o := &resource.Object{Key: resource.Key{Kind: c.kind, Name: "x"}, Revision: 7, Spec: spec}
		hidden, err := resource.Conceal(d, o)
		if err != nil {
			t.Fatal(err)
		}
		shown, err := hidden.Message(d)
		if err != nil {
			t.Fatal(err)
		}
		b, err := resource.EncodeDocument(d, resource.Key{}, shown)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(strings.Fields(string(b)), "")
		if diff := cmp.Diff(`{"type":"`+string(c.kind)+`",`+c.want[1:], got); diff != "" {
			t.Error(diff)
		}
		if hidden.Key != o.Key || hidden.Revision != 7 || !bytes.Equal(o.Spec, spec) {
			t.Error("another object, or the stored one was changed")
		}

		// Written again it is what it was.
		again := specOf(t, d, c.want)
		if !resource.HasHidden(d, again) || resource.HasHidden(d, m) {
			t.Error("what is hidden is not seen")
		}
		if v := resource.Reveal(d, again, m); len(v) > 0 {
			t.Error(v)
		}
		if back, err := resource.Encode(again); err != nil || !bytes.Equal(back, spec) {
			t.Errorf("%v: %s", err, jsonOf(t, again))
		}
	}
}

// TestConcealNothing: what has no key is neither copied nor decoded twice.
func TestConcealNothing(t *testing.T) {
	d := kindOf(t, resource.KindMesh)
	spec, err := resource.Encode(specOf(t, d, `{"mtls":{"backends":[{"name":"a","type":"builtin"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	o := &resource.Object{Key: resource.Key{Kind: resource.KindMesh, Name: "x"}, Spec: spec}
	if c, err := resource.Conceal(d, o); err != nil || c != o {
		t.Errorf("%v, %v", c, err)
	}
}

func TestReveal(t *testing.T) {
	mesh := kindOf(t, resource.KindMesh)
	one := func(name, key string) string {
		return `{"name":"` + name + `","type":"provided","conf":{"cert":{"inline":"YQ=="},"key":` + key + `}}`
	}
	for _, c := range []struct {
		name, old, body, want string
		wrong                 []string
	}{
		{
			name: "another order", old: one("a", `{"inline":"QQ=="}`) + "," + one("b", `{"inline":"Qg=="}`),
			body: one("b", `{"inline":"*****"}`) + "," + one("a", `{"inline":"*****"}`),
			want: one("b", `{"inline":"Qg=="}`) + "," + one("a", `{"inline":"QQ=="}`),
		},
		{
			name: "one is new", old: one("a", `{"inline":"QQ=="}`),
			body: one("a", `{"inline":"Wg=="}`), want: one("a", `{"inline":"Wg=="}`),
		},
		{
			name: "another name", old: one("a", `{"inline":"QQ=="}`),
			body: one("c", `{"inline":"*****"}`), wrong: []string{"mtls.backends[0].config.key.inline"},
		},
		{
			name: "another form", old: one("a", `{"inline":"QQ=="}`) + "," + one("b", `{"secret":"s"}`),
			body:  one("a", `{"inlineString":"*****"}`) + "," + one("b", `{"inline":"*****"}`),
			wrong: []string{"mtls.backends[0].config.key.inlineString", "mtls.backends[1].config.key.inline"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := func(s string) proto.Message { return specOf(t, mesh, `{"mtls":{"backends":[`+s+`]}}`) }
			m := body(c.body)
			var fields []string
			for _, x := range resource.Reveal(mesh, m, body(c.old)) {
				fields = append(fields, x.Field)
			}
			if diff := cmp.Diff(c.wrong, fields); diff != "" {
				t.Error(diff)
			}
			if c.wrong == nil && !proto.Equal(m, body(c.want)) {
				t.Error(jsonOf(t, m))
			}
		})
	}
	v := resource.Reveal(kindOf(t, resource.KindExternalService), specOf(t, kindOf(t, resource.KindExternalService), strings.ReplaceAll(external, "a2V5", "*****")), nil)
	if len(v) != 1 || v[0].Field != "networking.tls.clientKey.inline" {
		t.Error(v)
	}
}

// TestHiddenIsNoBase64: only a key may be given as hidden.
func TestHiddenIsNoBase64(t *testing.T) {
	for _, c := range []struct {
		kind        resource.Kind
		body, field string
	}{
		{resource.KindExternalService, strings.ReplaceAll(external, "Y2E=", "*****"), "networking.tls.caCert.inline"},
		{resource.KindSecret, `{"data":"*****"}`, "data"},
	} {
		_, err := resource.DecodeJSON(kindOf(t, c.kind), []byte(c.body))
		if err == nil || !strings.Contains(err.Error(), c.field+": must be base64") {
			t.Error(err)
		}
	}
}

// TestEveryMarkIsFound: each field that a schema marks belongs to a kind that hides it, and nothing else does.
func TestEveryMarkIsFound(t *testing.T) {
	marked := map[protoreflect.FullName]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("meridian.mesh.v1", func(f protoreflect.FileDescriptor) bool {
		var look func(protoreflect.MessageDescriptors)
		look = func(all protoreflect.MessageDescriptors) {
			for i := range all.Len() {
				look(all.Get(i).Messages())
				for j := range all.Get(i).Fields().Len() {
					fd := all.Get(i).Fields().Get(j)
					if o, ok := fd.Options().(*descriptorpb.FieldOptions); ok && o.GetDebugRedact() {
						marked[fd.FullName()] = true
						if n := fd.Message().FullName(); n != "meridian.mesh.v1.DataSource" && n != "google.protobuf.Struct" {
							t.Errorf("%s is a %s, in which no key is looked for", fd.FullName(), n)
						}
					}
				}
			}
		}
		look(f.Messages())
		return true
	})
	want := map[protoreflect.FullName]bool{
		"meridian.mesh.v1.ExternalService.Networking.Tls.client_key": true,
		"meridian.mesh.v1.CertificateAuthorityBackend.conf":          true,
	}
	if diff := cmp.Diff(want, marked); diff != "" {
		t.Error(diff)
	}
	var kinds []resource.Kind
	for _, d := range resource.NewTable().All() {
		if d.Confidential() {
			kinds = append(kinds, d.Kind)
		}
		if d.Confidential() && !d.Sealed {
			t.Errorf("%s is not encrypted at rest", d.Kind)
		}
	}
	if diff := cmp.Diff([]resource.Kind{resource.KindMesh, resource.KindExternalService}, kinds); diff != "" {
		t.Error(diff)
	}
}

// TestHiddenComesBack: whatever is valid, what others are shown of it and write back is what it was.
func TestHiddenComesBack(t *testing.T) {
	hidden := 0
	for _, kind := range []resource.Kind{resource.KindMesh, resource.KindExternalService} {
		d, k := kindOf(t, kind), resource.Key{Kind: kind, Scope: "m", Name: "x"}
		if d.Scope == resource.ScopeGlobal {
			k.Scope = ""
		}
		for seed := range uint64(300) {
			m := resourcetest.Valid(t, d, k, seed)
			shown := resource.ConcealMessage(d, m)
			if shown != m {
				hidden++
			}
			b, err := resource.EncodeDocument(d, k, shown)
			if err != nil {
				t.Fatal(err)
			}
			in, err := resource.DecodeJSON(d, b)
			if err != nil {
				t.Fatalf("%v: %s", err, b)
			}
			if got := resource.HasHidden(d, in.Spec); got != (shown != m) {
				t.Errorf("hides something: %t: %s", got, b)
			}
			if v := resource.Reveal(d, in.Spec, m); len(v) > 0 {
				t.Errorf("%v: %s", v, b)
			}
			if !proto.Equal(in.Spec, m) {
				t.Errorf("%s became %s", b, jsonOf(t, in.Spec))
			}
		}
	}
	if hidden < 20 {
		t.Errorf("only %d of them held a key", hidden)
	}
}
