// Package resourcetest draws objects that users could write, of any kind, for the tests of all that handles them.
package resourcetest

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// Written lists the kinds that users write, in the order of the table.
func Written(t *resource.Table) []*resource.Descriptor {
	var kinds []*resource.Descriptor
	for _, d := range t.All() {
		if d.Access != resource.Internal && d.Writable != resource.WritableNowhere {
			kinds = append(kinds, d)
		}
	}
	return kinds
}

// attempts is after how many refusals a kind is taken for one that cannot be drawn.
const attempts = 10_000

// Valid draws a message that the kind's validator takes, the same one for the same seed. It is not defaulted. A mesh
// uses, and reads, nothing outside of itself; its certificate authority is named "on", if one is enabled.
func Valid(tb testing.TB, d *resource.Descriptor, k resource.Key, seed uint64) proto.Message {
	tb.Helper()
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // the same for the same seed
	for range attempts {
		m := d.New()
		x := drawer{r, []float64{0.2, 0.5, 0.8, 1}[r.IntN(4)]}
		x.message(m.ProtoReflect())
		x.arrange(m)
		check := proto.Clone(m)
		if d.Default != nil {
			d.Default(k, check)
		}
		if d.Validate == nil || len(d.Validate(k, check)) == 0 {
			return m
		}
	}
	tb.Fatalf("no valid %s could be drawn", d.Kind)
	return nil
}

// Covering gives few messages of a kind that together have every field of its schema set.
func Covering(tb testing.TB, d *resource.Descriptor, k resource.Key) []proto.Message {
	tb.Helper()
	missing := map[protoreflect.FullName]bool{}
	for _, name := range fieldsOf(d.New().ProtoReflect().Descriptor()) {
		missing[name] = true
	}
	var all []proto.Message
	for seed := uint64(0); len(missing) > 0; seed++ {
		if seed == attempts {
			tb.Fatalf("no valid %s has %v", d.Kind, slices.Sorted(maps.Keys(missing)))
		}
		m := Valid(tb, d, k, seed)
		before := len(missing)
		set(m.ProtoReflect(), missing)
		if len(missing) < before {
			all = append(all, m)
		}
	}
	return all
}

// fieldsOf lists the fields of a message and of all that are in it, but those of well-known types.
func fieldsOf(md protoreflect.MessageDescriptor) []protoreflect.FullName {
	var names []protoreflect.FullName
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		names = append(names, fd.FullName())
		if inner := fd.Message(); inner != nil && !fd.IsMap() && !wellKnown(inner) {
			names = append(names, fieldsOf(inner)...)
		}
	}
	return names
}

func wellKnown(md protoreflect.MessageDescriptor) bool {
	return md.FullName().Parent() == "google.protobuf"
}

// set takes the fields that a message has out of a set.
func set(m protoreflect.Message, missing map[protoreflect.FullName]bool) {
	for fd, v := range m.Range {
		delete(missing, fd.FullName())
		switch {
		case fd.Message() == nil || fd.IsMap() || wellKnown(fd.Message()):
		case fd.IsList():
			for i := range v.List().Len() {
				set(v.List().Get(i).Message(), missing)
			}
		default:
			set(v.Message(), missing)
		}
	}
}

// drawer fills messages with what is mostly valid.
type drawer struct {
	*rand.Rand
	// chance is how likely a field is set that need not be.
	chance float64
}

// needed are the fields without which most messages are wrong.
var needed = map[protoreflect.Name]bool{ //nolint:gochecknoglobals // never written
	"sources": true, "destinations": true, "selectors": true, "conf": true, "networking": true, "address": true, "inbound": true, "port": true, "tags": true, "match": true,
	"destination": true, "split": true, "interval": true, "timeout": true, "unhealthy_threshold": true, "healthy_threshold": true, "percentage": true, "value": true, "http_status": true,
	"limit": true, "base_interval": true, "hash_function": true, "path": true, "inbound_port": true, "inbound_path": true, "header": true, "key": true, "name": true, "version": true, "resource": true,
	"operation": true, "max_connect_attempts": true, "num_retries": true, "rotation": true, "expiration": true, "public_address": true, "public_port": true, "idle_timeout": true, "stream_idle_timeout": true,
}

func (x drawer) message(m protoreflect.Message) {
	switch m := m.Interface().(type) {
	case *durationpb.Duration:
		proto.Merge(m, durationpb.New(time.Duration(1+x.Int64N(int64(time.Hour)))))
		return
	case *timestamppb.Timestamp:
		proto.Merge(m, timestamppb.New(time.Unix(4e9+x.Int64N(1e9), x.Int64N(1e9))))
		return
	case *meshv1.CertificateAuthorityBackend:
		x.authority(m)
		return
	case *meshv1.TracingBackend:
		x.fields(m.ProtoReflect())
		m.Type, m.Conf = "zipkin", x.conf(map[string]any{
			"url": "http://zipkin:9411/api/v2/spans", "traceId128bit": x.IntN(2) == 0, "apiVersion": "httpJson", "sharedSpanContext": x.IntN(2) == 0,
		}, "url")
		return
	case *meshv1.LoggingBackend:
		x.fields(m.ProtoReflect())
		m.Type, m.Conf = "file", x.conf(map[string]any{"path": "/tmp/a log"}, "path")
		if x.IntN(2) == 0 {
			m.Type, m.Conf = "tcp", x.conf(map[string]any{"address": "logs.example.com:5000"}, "address")
		}
		return
	case *meshv1.MetricsBackend:
		x.fields(m.ProtoReflect())
		m.Type, m.Conf = "prometheus", x.conf(map[string]any{
			"port": 1 + x.IntN(65535), "path": "/metrics?x=" + x.token(), "tags": map[string]any{resource.TagService: x.token()}, "skipMTLS": x.IntN(2) == 0,
		})
		return
	}
	x.fields(m)
}

func (x drawer) fields(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.ContainingOneof() != nil || fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Struct" {
			continue
		}
		if needed[fd.Name()] || x.Float64() < x.chance {
			x.field(m, fd)
		}
	}
	for i := range m.Descriptor().Oneofs().Len() {
		of := m.Descriptor().Oneofs().Get(i)
		x.field(m, of.Fields().Get(x.IntN(of.Fields().Len())))
	}
}

func (x drawer) field(m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	one := func(v protoreflect.Value) protoreflect.Value {
		if fd.Message() == nil {
			return x.scalar(fd)
		}
		switch fd.Message().FullName() {
		case "google.protobuf.UInt32Value", "google.protobuf.DoubleValue", "google.protobuf.StringValue", "google.protobuf.BoolValue", "google.protobuf.BytesValue":
			inner := fd.Message().Fields().ByNumber(1)
			v.Message().Set(inner, x.wrapped(fd, inner))
			return v
		}
		x.message(v.Message())
		return v
	}
	switch {
	case fd.IsMap():
		tags := m.Mutable(fd).Map()
		for k, v := range x.tags(fd.Name() != "tags") {
			tags.Set(protoreflect.ValueOfString(k).MapKey(), protoreflect.ValueOfString(v))
		}
	case fd.IsList():
		list := m.Mutable(fd).List()
		for range 1 + x.IntN(3) {
			list.Append(one(list.NewElement()))
		}
	default:
		m.Set(fd, one(m.NewField(fd)))
	}
}

// wrapped draws the value of a wrapper, whose rules are those of the field that has it.
func (x drawer) wrapped(fd, inner protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Name() {
	case "http_status":
		return protoreflect.ValueOfUint32([]uint32{200, 404, 503}[x.IntN(3)])
	case "limit":
		return protoreflect.ValueOfString(fmt.Sprintf("%d %cbps", 1+x.IntN(100), "kmg"[x.IntN(3)]))
	}
	return x.scalar(inner)
}

// odd are texts that encoders get wrong.
var odd = []string{"plain", `a "quoted" \ one`, "<a&b>", "☃ é 𝄞", "true", "null", "007", "1e3", "- x: y #z", "a\nb\tc", "'", " "} //nolint:gochecknoglobals // never written

func (x drawer) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(x.IntN(4) > 0)
	case protoreflect.BytesKind:
		b := make([]byte, 1+x.IntN(20))
		for i := range b {
			b[i] = byte(x.IntN(256))
		}
		return protoreflect.ValueOfBytes(b)
	case protoreflect.Uint32Kind:
		n := uint32(1 + x.IntN(100))
		if fd.Name() == "expected_statuses" || fd.Name() == "retriable_status_codes" {
			n += 400
		}
		return protoreflect.ValueOfUint32(n)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(1 + x.Uint64N(8<<20))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64([]float64{float64(1 + x.IntN(100)), 100 * x.Float64(), 0.1, 1e-7}[x.IntN(4)])
	}
	return protoreflect.ValueOfString(x.text(fd))
}

func (x drawer) of(texts ...string) string { return texts[x.IntN(len(texts))] }

// token is a text that is fine in most places.
func (x drawer) token() string {
	return fmt.Sprintf("%s-%d", x.of("web", "Back_end", "v1.2", "a:b"), x.IntN(100))
}

func (x drawer) text(fd protoreflect.FieldDescriptor) string {
	switch fd.FullName().Parent().Name() + "." + fd.Name() {
	case "Networking.address", "Ingress.address":
		if fd.ParentFile().Path() != "meridian/mesh/v1/dataplane.proto" {
			return x.of("10.1.2.3:80", "[fd00::1]:443", "example.com:8443")
		}
		return x.of("192.168.0.1", "fd00::1", "proxy-1.example.com")
	case "Ingress.public_address":
		return x.of("203.0.113.1", "2001:db8::1", "in.example.com")
	case "Inbound.address", "Inbound.service_address", "Outbound.address":
		return x.of("10.0.0.2", "10.0.0.3", "fd00::2")
	case "Endpoint.inbound_path", "Endpoint.path", "Http.path":
		return x.of("/", "/health?a=b&c=%20", "/x/y")
	case "HeaderValue.key":
		return x.of("accept", "X-Probe")
	case "HeaderValue.value":
		return x.of("a/b", "x; y=\"z\"")
	case "RingHash.hash_function":
		return x.of("XX_HASH", "MURMUR_HASH_2")
	case "Grpc.retry_on":
		return x.of("cancelled", "deadline_exceeded", "internal", "resource_exhausted", "unavailable")
	case "Conf.imports":
		return "default-proxy"
	case "Resource.resource":
		return x.of(`{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c"}`, "'@type': type.googleapis.com/envoy.api.v2.Listener\nname: \"a b\"\n")
	case "Cluster.value", "Listener.value", "NetworkFilter.value", "HttpFilter.value", "VirtualHost.value":
		return x.of("name: a\nconnectTimeout: 5s\n", `{"name": "b"}`)
	case "Cluster.operation", "Listener.operation", "VirtualHost.operation":
		return x.of("add", "remove", "patch")
	case "NetworkFilter.operation", "HttpFilter.operation":
		return x.of("addFirst", "addLast", "addBefore", "addAfter", "remove", "patch")
	case "LoggingBackend.format":
		return x.of("", "plain %% text", "[%START_TIME(%s.%3f)%] %REQ(X-A?B):12% \"%KUMA_MESH%\"\n")
	case "Mtls.enabled_backend", "Tracing.default_backend", "Logging.default_backend", "Metrics.enabled_backend":
		return "on"
	case "DataSource.secret":
		return "a-secret"
	case "Outbound.service", "AvailableService.mesh":
		return x.token()
	}
	return x.of(odd...)
}

// tags draws a set of them with a service; a selector's values may be patterns.
func (x drawer) tags(selector bool) map[string]string {
	tags := map[string]string{resource.TagService: x.token()}
	for range x.IntN(3) {
		tags[x.of("version", "kuma.io/region", "env:x", "a/b_c", "0")] = x.token()
	}
	if x.Float64() < x.chance {
		tags[resource.TagProtocol] = x.of("tcp", "http", "http2", "grpc", "kafka", "HTTP")
	}
	if selector && x.IntN(2) == 0 {
		tags[resource.TagService] = x.of("*", "a/b")
	}
	return tags
}

// conf draws some of the entries of a free object, and those that it needs.
func (x drawer) conf(all map[string]any, always ...string) *structpb.Struct {
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(always, k) && x.Float64() >= x.chance {
			delete(all, k)
		}
	}
	for k, v := range all {
		if n, ok := v.(int); ok {
			all[k] = float64(n)
		}
	}
	s, err := structpb.NewStruct(all)
	if err != nil {
		panic(err) // a table of this file
	}
	return s
}

func (x drawer) authority(m *meshv1.CertificateAuthorityBackend) {
	x.fields(m.ProtoReflect())
	m.Name = x.of("a", "b_c", "d.e")
	if m.DpCert != nil {
		m.DpCert.Rotation = &meshv1.CertificateAuthorityBackend_DpCert_Rotation{Expiration: x.of("1d", "24h", "90m")}
	}
	if x.IntN(2) == 0 {
		m.Type, m.Conf = "builtin", nil
		if x.Float64() < x.chance {
			m.Conf = x.conf(map[string]any{"caCert": map[string]any{"expiration": x.of("1y", "10y")}})
		}
		return
	}
	source := func() map[string]any {
		return []map[string]any{
			{"secret": "a-secret"}, {"file": "/a file"}, {"inline": base64.StdEncoding.EncodeToString([]byte("bytes"))}, {"inlineString": "text\nof two lines"},
		}[x.IntN(4)]
	}
	m.Type, m.Conf = "provided", x.conf(map[string]any{"cert": source(), "key": source()}, "cert", "key")
}

// arrange makes a message right in what its fields have to do with one another.
func (x drawer) arrange(m proto.Message) {
	service := func(s *meshv1.Selector) {
		s.Match = map[string]string{resource.TagService: s.GetMatch()[resource.TagService]}
	}
	switch m := m.(type) {
	case *meshv1.Mesh:
		x.arrangeMesh(m)
	case *meshv1.Dataplane:
		x.arrangeDataplane(m)
	case *meshv1.TrafficPermission:
		for _, s := range m.GetSources() {
			service(s)
		}
	case *meshv1.FaultInjection:
		for _, s := range m.GetDestinations() {
			s.Match[resource.TagProtocol] = x.of("http", "http2", "grpc")
		}
	case *meshv1.Retry:
		for _, s := range m.GetDestinations() {
			protocol, has := s.GetMatch()[resource.TagProtocol]
			service(s)
			if has {
				s.Match[resource.TagProtocol] = protocol
			}
		}
		for _, b := range []*meshv1.Retry_BackOff{m.GetConf().GetHttp().GetBackOff(), m.GetConf().GetGrpc().GetBackOff()} {
			if low, high := b.GetBaseInterval(), b.GetMaxInterval(); high != nil && high.AsDuration() < low.AsDuration() {
				b.BaseInterval, b.MaxInterval = high, low
			}
		}
		if g := m.GetConf().GetGrpc(); g != nil {
			slices.Sort(g.RetryOn)
			g.RetryOn = slices.Compact(g.RetryOn)
		}
	case interface {
		GetDestinations() []*meshv1.Selector
	}:
		for _, s := range m.GetDestinations() {
			service(s)
		}
	case *meshv1.ProxyTemplate:
		for _, c := range m.GetConf().GetModifications() {
			if c.GetCluster().GetOperation() == "add" {
				c.GetCluster().Match = nil
			}
			if c.GetListener().GetOperation() == "add" {
				c.GetListener().Match = nil
			}
			if h := c.GetVirtualHost(); h.GetOperation() == "add" && h.GetMatch() != nil {
				h.Match.Name = ""
			}
		}
	case *systemv1.Revocation:
		m.Note = x.of(odd...)
	}
	if r, ok := m.(*meshv1.TrafficRoute); ok {
		if ring := r.GetConf().GetLoadBalancer().GetRingHash(); ring != nil && ring.MaxRingSize != 0 && ring.MinRingSize > ring.MaxRingSize {
			ring.MinRingSize, ring.MaxRingSize = ring.MaxRingSize, ring.MinRingSize
		}
	}
}

// arrangeMesh gives backends names, each its own, and chooses among them. Only what needs nothing is enabled.
func (x drawer) arrangeMesh(m *meshv1.Mesh) {
	name := func(i int) string {
		if i == 0 {
			return "on"
		}
		return fmt.Sprintf("%s-%d", x.of("b", "c.d"), i)
	}
	if t := m.GetMtls(); t != nil {
		for i, b := range t.Backends {
			b.Name = name(i)
			if i == 0 && t.EnabledBackend != "" {
				b.Type, b.Conf = "builtin", nil
			}
		}
		if len(t.Backends) == 0 {
			t.EnabledBackend = ""
		}
	}
	if t := m.GetTracing(); t != nil {
		for i, b := range t.Backends {
			b.Name = name(i)
		}
		if len(t.Backends) == 0 {
			t.DefaultBackend = ""
		}
	}
	if t := m.GetLogging(); t != nil {
		for i, b := range t.Backends {
			b.Name = name(i)
		}
		if len(t.Backends) == 0 {
			t.DefaultBackend = ""
		}
	}
	if t := m.GetMetrics(); t != nil {
		for i, b := range t.Backends {
			b.Name = name(i)
		}
		if len(t.Backends) == 0 {
			t.EnabledBackend = ""
		}
	}
}

// arrangeDataplane makes it the proxy of a workload, a gateway, or an ingress.
func (x drawer) arrangeDataplane(m *meshv1.Dataplane) {
	n := m.GetNetworking()
	plain := func(tags map[string]string) {
		if tags[resource.TagProtocol] != "" {
			tags[resource.TagProtocol] = "tcp"
		}
	}
	switch x.IntN(3) {
	case 0:
		n.Ingress, n.Gateway = nil, nil
	case 1:
		n.Ingress, n.Inbound = nil, nil
		if n.Gateway == nil {
			n.Gateway = &meshv1.Dataplane_Networking_Gateway{Tags: x.tags(false)}
		}
		plain(n.Gateway.Tags)
	default:
		n.Gateway, n.Outbound, n.Inbound = nil, nil, n.Inbound[:1]
		if n.Ingress == nil {
			n.Ingress = &meshv1.Dataplane_Networking_Ingress{}
		}
		in := n.Inbound[0]
		in.ServicePort, in.ServiceAddress, in.Address = 0, "", ""
		plain(in.Tags)
	}
	for _, in := range n.Inbound {
		if in.Address != "" && in.Address == in.ServiceAddress {
			in.ServicePort = in.Port + 1
		}
	}
}
