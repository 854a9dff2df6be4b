package resource

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

func descriptor(t testing.TB, k Kind) *Descriptor {
	t.Helper()
	d, ok := NewTable().ByKind(k)
	if !ok {
		t.Fatalf("no kind %s", k)
	}
	return d
}

// fields are the paths that an error names, in order.
func fields(t testing.TB, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	v, ok := errors.AsType[Violations](err)
	if !ok {
		t.Fatalf("got %T (%v), want Violations", err, err)
	}
	var paths []string
	for _, x := range v {
		if x.Message == "" {
			t.Errorf("%s: no message", x.Field)
		}
		paths = append(paths, x.Field)
	}
	return paths
}

func TestDecodeReadsTheEnvelope(t *testing.T) {
	d := descriptor(t, KindTrafficPermission)
	in, err := DecodeJSON(d, []byte(`{"TYPE":"TrafficPermission","Mesh":"m","nAme":"n",
		"creationTime":"0001-01-01T00:00:00Z","modificationtime":"2020-05-12T12:31:45.606217+02:00",
		"sources":[{"match":{"service":"web","protocol":"http","zone":"z","region":"eu"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Input{
		Type: "TrafficPermission", Mesh: "m", Name: "n", HasType: true, HasMesh: true, HasName: true,
		Spec: &meshv1.TrafficPermission{Sources: []*meshv1.Selector{{Match: map[string]string{
			TagService: "web", TagProtocol: "http", TagZone: "z", "region": "eu",
		}}}},
		Warnings: []string{
			`the tag "service" is read as "kuma.io/service"`,
			`the tag "protocol" is read as "kuma.io/protocol"`,
			`the tag "zone" is read as "kuma.io/zone"`,
		},
	}
	if diff := cmp.Diff(want, in, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}

	in, err = DecodeJSON(d, []byte(`{"type":null,"mesh":"","sources":null}`))
	if err != nil {
		t.Fatal(err)
	}
	if in.HasType || !in.HasMesh || in.HasName {
		t.Errorf("got %+v; null is absent, an empty string is not", in)
	}
}

func TestDecodeTakesEveryEraOfValues(t *testing.T) {
	in, err := DecodeJSON(descriptor(t, KindDataplane), []byte(`{"networking":{"address":"10.0.0.1","inbound":[{
		"port":"8080","service_port":80,"address":null,"serviceProbe":{"interval":"1m30s","timeout":"-0.5s",
		"unhealthy_threshold":"3","healthyThreshold":1,"tcp":{}}}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		Address: "10.0.0.1",
		Inbound: []*meshv1.Dataplane_Networking_Inbound{{
			Port: 8080, ServicePort: 80,
			ServiceProbe: &meshv1.Dataplane_Networking_Inbound_ServiceProbe{
				Interval: durationpb.New(90 * time.Second), Timeout: durationpb.New(-500 * time.Millisecond),
				UnhealthyThreshold: wrapperspb.UInt32(3), HealthyThreshold: wrapperspb.UInt32(1),
				Tcp: &meshv1.Dataplane_Networking_Inbound_ServiceProbe_Tcp{},
			},
		}},
	}}
	if diff := cmp.Diff(want, in.Spec, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeNamesEveryFault(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		body string
		want []string
	}{
		{
			KindMesh, `{"foo":1,"mtls":{"enabled":true,"backends":[{"nam":"a"},{"bar":{}}]},"routing":{"x y":1}}`,
			[]string{"mtls.enabled", "foo", "mtls.backends[0].nam", "mtls.backends[1].bar", `routing["x y"]`},
		},
		{
			KindMesh, `{"type":1,"mesh":{},"name":[],"creationTime":"yesterday","modificationTime":true}`,
			[]string{"type", "mesh", "name", "creationTime", "modificationTime"},
		},
		{KindMesh, `{"name":"a","Name":"b"}`, []string{"name"}},
		{
			KindMesh, `{"mtls":[],"tracing":"x","logging":1,"metrics":true,"networking":{"outbound":{"passthrough":"true"}}}`,
			[]string{"mtls", "tracing", "logging", "metrics", "networking.outbound.passthrough"},
		},
		{
			KindMesh, `{"mtls":{"backends":{}},"logging":{"backends":[null,1]}}`,
			[]string{"mtls.backends", "logging.backends[0]", "logging.backends[1]"},
		},
		{
			KindMesh, `{"mtls":{"backends":[{"conf":[]},{"conf":{"a":{"b":1,"b":2}}},{"conf":{"x":1e999}}]}}`,
			[]string{"mtls.backends[0].conf", "mtls.backends[1].conf.a.b", "mtls.backends[2].conf.x"},
		},
		{
			KindMesh, `{"tracing":{"backends":[{"sampling":"often"},{"sampling":"NaN"},{"sampling":{}}]}}`,
			[]string{"tracing.backends[0].sampling", "tracing.backends[1].sampling", "tracing.backends[2].sampling"},
		},
		{
			KindDataplane, `{"networking":{"address":1,"inbound":[{"port":1.5},{"port":-1},{"port":1.0},{"port":4294967296},
			{"port":"x"},{"port":true},{"tags":{"a":1,"b":null}},{"tags":[]},{"health":{"ready":"true"}}]}}`,
			[]string{
				"networking.address", "networking.inbound[0].port", "networking.inbound[1].port", "networking.inbound[2].port",
				"networking.inbound[3].port", "networking.inbound[4].port", "networking.inbound[5].port",
				`networking.inbound[6].tags["a"]`, `networking.inbound[6].tags["b"]`, "networking.inbound[7].tags",
				"networking.inbound[8].health.ready",
			},
		},
		{
			KindDataplane, `{"networking":{"inbound":[{"tags":{"a":"1","a":"2","service":"x","kuma.io/service":"x"}}]}}`,
			[]string{`networking.inbound[0].tags["a"]`, `networking.inbound[0].tags["service"]`},
		},
		{
			KindDataplane, `{"networking":{"inbound":[{"servicePort":1,"service_port":2,"address":null,"address":""}],"inbound":[]}}`,
			[]string{"networking.inbound[0].service_port", "networking.inbound[0].address", "networking.inbound"},
		},
		{
			KindTimeout, `{"conf":{"connectTimeout":5,"tcp":{"idleTimeout":"5"},"http":{"requestTimeout":"fast","idleTimeout":{}}}}`,
			[]string{"conf.connectTimeout", "conf.tcp.idleTimeout", "conf.http.requestTimeout", "conf.http.idleTimeout"},
		},
		{KindTimeout, `{"conf":[]}`, []string{"conf"}},
		{
			KindTrafficRoute, `{"conf":{"loadBalancer":{"random":{},"maglev":{},"ring_hash":{"minRingSize":"-1"}}}}`,
			[]string{"conf.loadBalancer.maglev", "conf.loadBalancer.ring_hash"},
		},
		{KindSecret, `{"data":"!"}`, []string{"data"}},
		{KindSecret, `{"data":5}`, []string{"data"}},
		{KindZone, `{"enabled":1,"ingress":"1.2.3.4:5"}`, []string{"enabled", "ingress"}},
		{
			KindDataplaneInsight, `{"subscriptions":[{"connectTime":"now","status":{"total":{"responsesSent":"-1"}}}]}`,
			[]string{"subscriptions[0].connectTime", "subscriptions[0].status.total.responsesSent"},
		},
		{
			KindMesh, `{"mtls":{"backends":[{"type":"builtin","conf":{"caCert":{"rsabits":1},"x":1}},{"type":"provided","conf":{"cert":{"s":1}}},{"type":"other","conf":{"x":1}}]},
			"tracing":{"backends":[{"type":"zipkin","conf":{"uri":""}}]},"logging":{"backends":[{"type":"file","conf":{"address":""}},{"type":"tcp","conf":{"path":""}}]},
			"metrics":{"backends":[{"type":"prometheus","conf":{"ports":1,"tags":{"anything":"x"}}}]}}`,
			[]string{
				"mtls.backends[0].config.caCert.rsabits", "mtls.backends[0].config.x", "mtls.backends[1].config.cert.s",
				"tracing.backends[0].config.uri", "logging.backends[0].config.address", "logging.backends[1].config.path", "metrics.backends[0].conf.ports",
			},
		},
		{KindDataplane, `{"metrics":{"type":"prometheus","conf":{"skipMtls":true}}}`, []string{"metrics.conf.skipMtls"}},
	} {
		_, err := DecodeJSON(descriptor(t, c.kind), []byte(c.body))
		if diff := cmp.Diff(c.want, fields(t, err)); diff != "" {
			t.Errorf("%s %s\n%s", c.kind, c.body, diff)
		}
	}
}

func TestDecodeKeepsSecretsOutOfErrors(t *testing.T) {
	_, err := DecodeJSON(descriptor(t, KindSecret), []byte(`{"data":"hunter2!"}`))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func TestDecodeRefusesWhatIsNoObject(t *testing.T) {
	deep := strings.Repeat(`{"a":`, MaxDepth) + `{}` + strings.Repeat(`}`, MaxDepth)
	for _, c := range []struct {
		body         string
		line, column int
		json, yaml   bool
	}{
		{body: "", json: true, yaml: true},
		{body: "  ", json: true, yaml: true},
		{body: "[]", line: 1, column: 1, json: true, yaml: true},
		{body: `"x"`, line: 1, column: 1, json: true, yaml: true},
		{body: "null", line: 1, column: 1, json: true, yaml: true},
		{body: "{\n \"name\": x}", line: 2, column: 10, json: true},
		{body: `{"name":"a"`, json: true, yaml: true},
		{body: `{"name":"a"}}`, line: 1, column: 13, json: true, yaml: true},
		{body: `{"name":"a"} {"name":"b"}`, line: 1, column: 14, json: true},
		{body: "{\"name\":\"\xff\"}", json: true, yaml: true},
		{body: strings.Repeat("[", 5000), json: true, yaml: true},
		{body: strings.Repeat("[", 500_000), json: true, yaml: true},
		{body: deep, json: true, yaml: true},
		{body: "name: a\n---\nname: b\n", yaml: true},
		{body: "name: a\nname: [", yaml: true},
		{body: "name: *nothing", yaml: true},
		{body: "mtls: &a {backends: *a}", yaml: true},
		{body: "? [a]\n: b", yaml: true},
		{body: "name: !!binary aGVsbG8=", yaml: true},
		{body: "tracing: {backends: [{sampling: .inf}]}", yaml: true},
		{body: strings.Repeat("- ", 200_000), yaml: true},
		{body: strings.Repeat("? ", 200_000), yaml: true},
		{body: "name: " + strings.Repeat("&a ", 100_000), yaml: true},
		{body: "name: " + strings.Repeat("!a ", 100_000), yaml: true},
		{body: strings.Repeat("{a: ", 100_000), yaml: true},
	} {
		try := func(format string, decode func(*Descriptor, []byte) (Input, error)) {
			_, err := decode(descriptor(t, KindMesh), []byte(c.body))
			s, ok := errors.AsType[*SyntaxError](err)
			if !ok {
				t.Errorf("%s %.40q: got %T (%v), want *SyntaxError", format, c.body, err, err)
				return
			}
			if c.line != 0 && format == "json" && (s.Line != c.line || s.Column != c.column) {
				t.Errorf("%s %.40q: at %d:%d, want %d:%d", format, c.body, s.Line, s.Column, c.line, c.column)
			}
		}
		if c.json {
			try("json", DecodeJSON)
		}
		if c.yaml {
			try("yaml", DecodeYAML)
		}
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%d":1,`, i)
	}
	return b.String() + `"x":1`
}

func TestDecodeLimitsSizes(t *testing.T) {
	mesh := descriptor(t, KindMesh)
	big := []byte(`{"name":"` + strings.Repeat("a", MaxSpecBytes) + `"}`)
	if _, err := DecodeJSON(mesh, big); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := DecodeYAML(mesh, big); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	// A free object takes more room in the store than in its JSON.
	conf := `{"mtls":{"backends":[{"conf":{` + manyKeys(40_000) + `}}]}}`
	if _, err := DecodeJSON(mesh, []byte(conf)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestDecodeBoundsItsErrors(t *testing.T) {
	key := strings.Repeat("k", 100_000)
	body := `{"subscriptions":[{"status":{"stat":{"` + key + `":{` + manyKeys(30_000) + `}}}}]}`
	_, err := DecodeJSON(descriptor(t, KindZoneInsight), []byte(body))
	if n := len(err.Error()); n > 200_000 || len(fields(t, err)) != maxViolations+1 {
		t.Errorf("%d violations in %d bytes", len(fields(t, err)), n)
	}
}

func TestDecodeYAML(t *testing.T) {
	in, err := DecodeYAML(descriptor(t, KindDataplane), []byte(`
# a proxy
type: Dataplane
mesh: "default"
name: web-1
networking:
  address: 10.0.0.1
  inbound:
  - port: 0x1F90
    tags: &tags
      kuma.io/service: web
      version: "1.0"
      env: !!str 7
  - {port: 8081, tags: *tags}
  - port: 8082
    tags:
      <<: *tags
      version: '2'
metrics:
  name: |
    two
    lines
  conf: {port: 1234, path: /m, on: yes, rate: 1.5, none: ~, deep: [true, [false]]}
`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := EncodeSpec(in.Spec)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"networking":{"address":"10.0.0.1","inbound":[
		{"port":8080,"tags":{"env":"7","kuma.io/service":"web","version":"1.0"}},
		{"port":8081,"tags":{"env":"7","kuma.io/service":"web","version":"1.0"}},
		{"port":8082,"tags":{"env":"7","kuma.io/service":"web","version":"2"}}]},
		"metrics":{"name":"two\nlines\n","conf":{"deep":[true,[false]],"none":null,"on":"yes","path":"/m","port":1234,"rate":1.5}}}`
	if diff := cmp.Diff(compact(t, []byte(want)), compact(t, b)); diff != "" {
		t.Error(diff)
	}
	if in.Type != KindDataplane || in.Mesh != "default" || in.Name != "web-1" {
		t.Errorf("%+v", in)
	}
}

func TestDecodeYAMLNamesFaultsLikeJSON(t *testing.T) {
	_, err := DecodeYAML(descriptor(t, KindDataplane), []byte("name: 1\nnetworking:\n  inbound:\n  - port: many\n    port: 2\n    tags: {version: 1.0, a: b, a: c}\n  foo: {}\n"))
	want := []string{"name", "networking.inbound[0].port", "networking.inbound[0].port", `networking.inbound[0].tags["version"]`, `networking.inbound[0].tags["a"]`, "networking.foo"}
	if diff := cmp.Diff(want, fields(t, err)); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeYAMLLimitsAliases(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [" + strings.Repeat("x,", 50) + "x]\n")
	for i := range 8 {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 9), ","))
	}
	var chain strings.Builder
	chain.WriteString("a0: &a0 {x: 1}\n")
	for i := range 70 {
		fmt.Fprintf(&chain, "a%d: &a%d {x: *a%d}\n", i+1, i+1, i)
	}
	for name, body := range map[string]string{"wide": bomb.String(), "deep": chain.String()} {
		_, err := DecodeYAML(descriptor(t, KindMesh), []byte(body))
		if _, ok := errors.AsType[*SyntaxError](err); !ok {
			t.Errorf("%s: got %T (%v), want *SyntaxError", name, err, err)
		}
	}
}

// The parser keeps a path for each node; a document may not make it keep gigabytes.
func TestDecodeYAMLLimitsPaths(t *testing.T) {
	var b strings.Builder
	for i := range 50 {
		b.WriteString(strings.Repeat(" ", i) + strings.Repeat("k", 1000) + ":\n")
	}
	b.WriteString(strings.Repeat(" ", 50) + "x: [" + strings.Repeat("0,", 200_000) + "0]\n")
	start := time.Now()
	_, err := DecodeYAML(descriptor(t, KindMesh), []byte(b.String()))
	if _, ok := errors.AsType[*SyntaxError](err); !ok {
		t.Errorf("got %T, want *SyntaxError", err)
	}
	t.Log(time.Since(start))
}

func TestNoSpecFieldHidesBehindMetadata(t *testing.T) {
	for _, d := range NewTable().All() {
		if d.Access == Internal {
			continue
		}
		f := d.New().ProtoReflect().Descriptor().Fields()
		for i := range f.Len() {
			if metaIndex(f.Get(i).JSONName()) >= 0 || metaIndex(string(f.Get(i).Name())) >= 0 {
				t.Errorf("%s: field %s is named like metadata", d.Kind, f.Get(i).Name())
			}
		}
	}
}

// The codec knows maps by strings only.
func TestMapsAreByString(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(md protoreflect.MessageDescriptor) {
		if seen[md.FullName()] {
			return
		}
		seen[md.FullName()] = true
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			if fd.IsMap() && fd.MapKey().Kind() != protoreflect.StringKind {
				t.Errorf("%s has keys of kind %s", fd.FullName(), fd.MapKey().Kind())
			}
			if fd.Message() != nil {
				walk(fd.Message())
			}
		}
	}
	for _, d := range NewTable().All() {
		walk(d.New().ProtoReflect().Descriptor())
	}
}

func TestNumbersOfEveryWidth(t *testing.T) {
	for _, c := range []struct {
		kind       protoreflect.Kind
		good, evil []string
	}{
		{protoreflect.Uint32Kind, []string{"0", "4294967295"}, []string{"-1", "4294967296", "1.0", "", "0x1"}},
		{protoreflect.Uint64Kind, []string{"18446744073709551615"}, []string{"-1", "18446744073709551616"}},
		{protoreflect.Int32Kind, []string{"-2147483648"}, []string{"2147483648"}},
		{protoreflect.Int64Kind, []string{"-9223372036854775808"}, []string{"9223372036854775808", "1e3"}},
		{protoreflect.FloatKind, []string{"1.5", "1e3"}, []string{"1e39", "inf", "x"}},
		{protoreflect.DoubleKind, []string{"-1.5e300"}, []string{"1e309", "NaN", "x"}},
	} {
		for _, s := range c.good {
			if _, message := number(c.kind, s); message != "" {
				t.Errorf("%s %q: %s", c.kind, s, message)
			}
		}
		for _, s := range c.evil {
			if v, message := number(c.kind, s); message == "" {
				t.Errorf("%s %q: taken as %v", c.kind, s, v)
			}
		}
	}
}

func TestSecretsRoundTrip(t *testing.T) {
	in, err := DecodeJSON(descriptor(t, KindGlobalSecret), []byte(`{"type":"Secret","name":"s","data":"dGVzdAo="}`))
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(in.Spec, &systemv1.Secret{Data: wrapperspb.Bytes([]byte("test\n"))}) {
		t.Error(in.Spec)
	}
}
