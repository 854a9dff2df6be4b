package resource

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// backend decodes a mesh with one backend.
func backend(t *testing.T, text string) *meshv1.CertificateAuthorityBackend {
	t.Helper()
	d, _ := NewTable().ByKind(KindMesh)
	in, err := DecodeJSON(d, []byte(`{"mtls":{"enabledBackend":"x","backends":[`+text+`]}}`))
	if err != nil {
		t.Fatal(err)
	}
	return in.Spec.(*meshv1.Mesh).GetMtls().GetBackends()[0]
}

func TestCASources(t *testing.T) {
	secret := func(name string) CASource {
		return CASource{Secret: Key{Kind: KindSecret, Scope: "m", Name: name}}
	}
	file := func(name, path string) CASource {
		s := secret(name)
		s.File = path
		return s
	}
	for _, c := range []struct {
		backend   string
		cert, key CASource
	}{
		{`{"name":"b","type":"builtin"}`, secret("m.ca-builtin-cert-b"), secret("m.ca-builtin-key-b")},
		{`{"name":"b","type":"provided","conf":{"cert":{"secret":"c"},"key":{"secret":"k"}}}`, secret("c"), secret("k")},
		{
			`{"name":"b","type":"provided","conf":{"cert":{"inline":"YWI="},"key":{"inlineString":"cd"}}}`,
			CASource{Inline: []byte("ab")},
			CASource{Inline: []byte("cd")},
		},
		{
			`{"name":"b","type":"provided","conf":{"cert":{"file":"/c"},"key":{"file":"/k"}}}`,
			file("m.ca-provided-cert-b", "/c"), file("m.ca-provided-key-b", "/k"),
		},
		{`{"name":"b","type":"provided","conf":{"cert":{"inline":"?"}}}`, CASource{}, CASource{}},
		{`{"name":"b","type":"other"}`, CASource{}, CASource{}},
	} {
		cert, key := CASources("m", backend(t, c.backend))
		if diff := cmp.Diff([]CASource{c.cert, c.key}, []CASource{cert, key}); diff != "" {
			t.Errorf("%s: %s", c.backend, diff)
		}
	}
}

func TestCASourceRead(t *testing.T) {
	object := func(name string, data []byte) *Object {
		spec, err := Encode(&systemv1.Secret{Data: wrapperspb.Bytes(data)})
		if err != nil {
			t.Fatal(err)
		}
		return &Object{Key: Key{Kind: KindSecret, Scope: "m", Name: name}, Spec: spec}
	}
	get := func(k Key) (*Object, bool) {
		switch k {
		case Key{Kind: KindSecret, Scope: "m", Name: "full"}:
			return object("full", []byte("pem")), true
		case Key{Kind: KindSecret, Scope: "m", Name: "empty"}:
			return object("empty", nil), true
		case Key{Kind: KindSecret, Scope: "m", Name: "torn"}:
			return &Object{Key: k, Spec: []byte{0xff}}, true
		}
		return nil, false
	}
	for _, c := range []struct {
		source    CASource
		want, err string
	}{
		{secretSource("m", "full"), "pem", ""},
		{CASource{Inline: []byte("pem")}, "pem", ""},
		{secretSource("m", "empty"), "", `secret "empty" in mesh "m" is empty`},
		{secretSource("m", "torn"), "", `secret "torn" in mesh "m" cannot be read`},
		{secretSource("m", "none"), "", `secret "none" is not in mesh "m"`},
		{CASource{}, "", "neither a secret nor inline data is given"},
	} {
		got, err := c.source.Read(get)
		said := ""
		if err != nil {
			said = err.Error()
		}
		if string(got) != c.want || said != c.err {
			t.Errorf("%+v: %q, %q; want %q, %q", c.source, got, said, c.want, c.err)
		}
	}
}

func TestCASettings(t *testing.T) {
	for _, c := range []struct {
		backend  string
		bits     int
		validFor time.Duration
		workload time.Duration
	}{
		{`{"name":"x","type":"builtin"}`, 0, 0, 0},
		{`{"name":"x","type":"builtin","conf":{"caCert":{"RSAbits":2048,"expiration":"2d"}},"dpCert":{"rotation":{"expiration":"1d"}}}`, 2048, 48 * time.Hour, 24 * time.Hour},
		{`{"name":"x","type":"builtin","conf":{"caCert":{"rsaBits":"4096"}},"dpCert":{"rotation":{"expiration":"0"}}}`, 4096, 0, 0},
	} {
		b := backend(t, c.backend)
		bits, validFor := BuiltinCA(b)
		if bits != c.bits || validFor != c.validFor || WorkloadValidity(b) != c.workload || !IsBuiltinCA(b) {
			t.Errorf("%s: %d, %s, %s", c.backend, bits, validFor, WorkloadValidity(b))
		}
		m := &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{Backends: []*meshv1.CertificateAuthorityBackend{b}}}
		if EnabledCA(m) != nil {
			t.Error("a backend is enabled where none is named")
		}
		m.Mtls.EnabledBackend = "x"
		if EnabledCA(m) != b {
			t.Error("the named backend is not found")
		}
	}
	const field = "mtls.dpcert.rotation.expiration: has to be at least 1s\n"
	short := `{"mtls":{"backends":[{"name":"x","type":"builtin","dpCert":{"rotation":{"expiration":"999ms"}}}]}}`
	if got := list(validate(t, KindMesh, short)); got != field {
		t.Errorf("%q, want %q", got, field)
	}
}
