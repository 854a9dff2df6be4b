package resource

import (
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	d, _ := NewTable().ByKind(KindTimeout)
	in, err := DecodeJSON(d, []byte(`{"Type":"Timeout","conf":{"connect_timeout":"1m30s"},"sources":[{"match":{"service":"a"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := Encode(in.Spec)
	if err != nil {
		t.Fatal(err)
	}
	b, err := EncodeJSON(d, &Object{Key: Key{KindTimeout, "default", "x"}, Created: time.Now(), Spec: spec})
	t.Log(string(b), err)
	y, err := DecodeYAML(d, []byte("type: Timeout\nsources:\n- match: &a\n    service: a\n- match: *a\nconf:\n  http: {requestTimeout: 5s, foo: 1}\n"))
	t.Log(y, err)
	if err := Accept(NewTable(), Key{KindTimeout, "default", "x"}, Global, spec); err != nil {
		t.Error(err)
	}
}
