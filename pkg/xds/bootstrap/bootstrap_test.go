package bootstrap

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/xds"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

type fake struct {
	tags    map[string][]string
	goodbye []resource.Key
}

func (f *fake) AuthenticateProxy(_ context.Context, token string, _ resource.Key, tags map[string][]string, _ bool) (xds.Hold, error) {
	f.tags = tags
	if token == "bad" {
		return nil, errors.New("the token is for another proxy")
	}
	return nil, nil
}

func (f *fake) Goodbye(_ context.Context, k resource.Key) error {
	f.goodbye = append(f.goodbye, k)
	return nil
}

// certificate makes one, of a CA or not, in PEM.
func certificate(t testing.TB, ca bool) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

const inline = `type: Dataplane
mesh: default
name: web
networking:
  address: 127.0.0.1
  inbound:
  - port: 8080
    tags: {kuma.io/service: web}
  outbound:
  - port: 9090
    tags: {kuma.io/service: backend}
`

func newHandler(t testing.TB, change func(*Options)) (http.Handler, *fake) {
	t.Helper()
	s := memory.New(memory.Options{})
	t.Cleanup(func() { _ = s.Close() })
	spec, err := resource.Encode(&meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		Address: "127.0.0.1", Gateway: &meshv1.Dataplane_Networking_Gateway{Tags: map[string]string{"kuma.io/service": "edge"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Config().Apply(t.Context(), store.Batch{Puts: []store.Put{
		{Key: resource.Key{Kind: resource.KindMesh, Name: "default"}, Spec: []byte{}},
		{Key: resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: "there"}, Spec: spec},
	}}); err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	o := Options{
		Store: s, Table: resource.NewTable(), Zone: "zone-1", Authenticator: f, Leaver: f, Logger: slog.New(slog.DiscardHandler),
		CA: func() []byte { return []byte("the control plane's CA") }, RequireToken: true,
		ServerNames: func(host string) bool { return host == "cp.example" || host == "127.0.0.1" },
	}
	if change != nil {
		change(&o)
	}
	return Handler(o), f
}

func post(h http.Handler, path, host string, body any) *httptest.ResponseRecorder {
	b, ok := body.(string)
	if !ok {
		j, err := json.Marshal(body)
		if err != nil {
			panic(err) // a test's own body
		}
		b = string(j)
	}
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(b))
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func parse(t *testing.T, body []byte) *bootstrapv3.Bootstrap {
	t.Helper()
	j, err := yaml.YAMLToJSON(body)
	if err != nil {
		t.Fatalf("not YAML: %v", err)
	}
	var b bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(j, &b); err != nil {
		t.Fatalf("no bootstrap: %v\n%s", err, body)
	}
	if err := b.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestBootstrap(t *testing.T) {
	h, auth := newHandler(t, nil)
	w := post(h, "/bootstrap", "127.0.0.1:5678", Request{
		Mesh: "default", Name: "web", AdminPort: 9901, DataplaneToken: "good", DataplaneResource: inline,
		Version: Version{KumaDp: DataplaneVersion{Version: "1.0"}, Envoy: EnvoyVersion{Version: "1.40.0"}}, DynamicMetadata: map[string]string{"a": "b"},
	})
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/x-yaml" || w.Header().Get("kuma-bootstrap-version") != "3" {
		t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	b := parse(t, w.Body.Bytes())
	if b.GetNode().GetId() != "default.web" || b.GetNode().GetCluster() != "web" {
		t.Errorf("node %q, cluster %q", b.GetNode().GetId(), b.GetNode().GetCluster())
	}
	meta := b.GetNode().GetMetadata().GetFields()
	if meta["dataplane.admin.port"].GetStringValue() != "9901" || meta["dynamicMetadata"].GetStructValue().GetFields()["a"].GetStringValue() != "b" ||
		meta["version"].GetStructValue().GetFields()["envoy"].GetStructValue().GetFields()["version"].GetStringValue() != "1.40.0" {
		t.Errorf("metadata: %v", meta)
	}
	d, _ := resource.NewTable().ByKind(resource.KindDataplane)
	if _, err := resource.DecodeJSON(d, []byte(meta["dataplane.resource"].GetStringValue())); err != nil {
		t.Errorf("inline dataplane: %v", err)
	}
	ads := b.GetDynamicResources().GetAdsConfig()
	if ads.GetApiType() != corev3.ApiConfigSource_DELTA_GRPC || !ads.GetSetNodeOnFirstMessageOnly() ||
		ads.GetGrpcServices()[0].GetInitialMetadata()[0].GetValue() != "good" {
		t.Errorf("ads: %v", ads)
	}
	c := b.GetStaticResources().GetClusters()[0]
	var tls tlsv3.UpstreamTlsContext
	if err := c.GetTransportSocket().GetTypedConfig().UnmarshalTo(&tls); err != nil {
		t.Fatal(err)
	}
	v := tls.GetCommonTlsContext().GetValidationContext()
	if c.GetName() != "ads_cluster" || c.GetConnectTimeout().AsDuration() != time.Second || v.GetTrustedCa().GetInlineString() != "the control plane's CA" ||
		v.GetMatchTypedSubjectAltNames()[0].GetMatcher().GetExact() != "127.0.0.1" {
		t.Errorf("cluster: %v", c)
	}
	if b.GetAdmin().GetAddress().GetSocketAddress().GetAddress() != "127.0.0.1" {
		t.Errorf("admin: %v", b.GetAdmin())
	}
	if auth.tags["kuma.io/zone"][0] != "zone-1" {
		t.Errorf("authenticated with %v", auth.tags)
	}
}

// The cluster is the first service, also where the proxy's name would come first.
func TestBootstrapCluster(t *testing.T) {
	h, _ := newHandler(t, nil)
	w := post(h, "/bootstrap", "127.0.0.1:5678", Request{
		Mesh: "default", Name: "a", DataplaneToken: "good", DataplaneResource: strings.Replace(inline, "name: web", "name: a", 1),
	})
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if got := parse(t, w.Body.Bytes()).GetNode().GetCluster(); got != "web" {
		t.Errorf("cluster %q", got)
	}
}

func TestBootstrapOfARegisteredDataplane(t *testing.T) {
	h, _ := newHandler(t, nil)
	ca := certificate(t, true)
	w := post(h, "/bootstrap", "cp.example:5678", Request{Mesh: "default", Name: "there", DataplaneTokenPath: "/token", CACert: ca})
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	b := parse(t, w.Body.Bytes())
	if b.GetAdmin() != nil || b.GetNode().GetCluster() != "edge" {
		t.Errorf("admin %v, cluster %q", b.GetAdmin(), b.GetNode().GetCluster())
	}
	if g := b.GetDynamicResources().GetAdsConfig().GetGrpcServices()[0].GetGoogleGrpc(); g.GetTargetUri() != "cp.example:5678" ||
		g.GetChannelCredentials().GetSslCredentials().GetRootCerts().GetInlineString() != ca {
		t.Errorf("service: %v", g)
	}
}

// TestInlineIsLimited: as large as allowed is taken, one byte more is refused by the key's name.
func TestInlineIsLimited(t *testing.T) {
	h, _ := newHandler(t, nil)
	for size, want := range map[int]string{256 << 10: "200 ", 256<<10 + 1: "422 dataplaneResource: larger than 262144 bytes (limits.nodeMetadataBytes)"} {
		w := post(h, "/bootstrap", "cp.example:5678", Request{
			Mesh: "default", Name: "web", DataplaneToken: "good", DataplaneResource: inline + strings.Repeat(" ", size-len(inline)),
		})
		if got := fmt.Sprint(w.Code, " ", w.Body); !strings.HasPrefix(got, want) {
			t.Errorf("%d bytes: %.200s", size, got)
		}
	}
}

func TestBootstrapIsRefused(t *testing.T) {
	good := Request{Mesh: "default", Name: "web", DataplaneToken: "good", DataplaneResource: inline}
	with := func(f func(*Request)) Request { r := good; f(&r); return r }
	for name, c := range map[string]struct {
		host string
		body any
		code int
		text string
	}{
		"empty":           {"", "", 400, "body"},
		"no JSON":         {"", "{", 400, "body"},
		"large":           {"", strings.Repeat(" ", 1<<20+1), 413, "body: larger than 1048576 bytes (limits.bodyBytes)"},
		"largest":         {"", strings.Repeat(" ", 1<<20), 400, "body: not a request in JSON"},
		"no port":         {"cp.example", good, 400, "Host"},
		"port 0":          {"cp.example:0", good, 400, "Host"},
		"foreign host":    {"other.example:5678", good, 400, "other.example"},
		"version 2":       {"", with(func(r *Request) { r.BootstrapVersion = "2" }), 400, "bootstrapVersion"},
		"no mesh":         {"", with(func(r *Request) { r.Mesh = "" }), 422, "mesh"},
		"no name":         {"", with(func(r *Request) { r.Name = "" }), 422, "name"},
		"no token":        {"", with(func(r *Request) { r.DataplaneToken = "" }), 422, "dataplaneToken"},
		"two tokens":      {"", with(func(r *Request) { r.DataplaneTokenPath = "/t" }), 422, "dataplaneTokenPath"},
		"wrong token":     {"", with(func(r *Request) { r.DataplaneToken = "bad" }), 403, "authentication failed: the token is for another proxy"},
		"unknown mesh":    {"", with(func(r *Request) { r.Mesh = "other" }), 404, `mesh "other"`},
		"unknown":         {"", with(func(r *Request) { r.DataplaneResource = "" }), 404, `"web"`},
		"invalid":         {"", with(func(r *Request) { r.DataplaneResource = "networking: {}" }), 422, "dataplaneResource: networking"},
		"another name":    {"", with(func(r *Request) { r.Name = "web2" }), 422, "name"},
		"admin: inbound":  {"", with(func(r *Request) { r.AdminPort = 8080 }), 422, "networking.inbound[0]"},
		"admin: outbound": {"", with(func(r *Request) { r.AdminPort = 9090 }), 422, "networking.outbound[0]"},
		"admin: large":    {"", with(func(r *Request) { r.AdminPort = 65536 }), 422, "adminPort"},
		"CA: no PEM":      {"", with(func(r *Request) { r.CACert = "x" }), 400, "caCert"},
		"CA: no CA":       {"", with(func(r *Request) { r.CACert = certificate(t, false) }), 400, "caCert"},
		"huge inline":     {"", with(func(r *Request) { r.DataplaneResource += strings.Repeat(" ", 256<<10) }), 422, "dataplaneResource"},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := newHandler(t, nil)
			if c.host == "" {
				c.host = "cp.example:5678"
			}
			w := post(h, "/bootstrap", c.host, c.body)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

func TestXDSHost(t *testing.T) {
	h, _ := newHandler(t, func(o *Options) { o.XDSHost, o.XDSPort = "xds.example", 1234 })
	w := post(h, "/bootstrap", "anything", Request{Mesh: "default", Name: "there", DataplaneToken: "good"})
	if w.Code != 200 || !bytes.Contains(w.Body.Bytes(), []byte("xds.example")) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestGoodbye(t *testing.T) {
	h, f := newHandler(t, nil)
	for _, c := range []struct {
		g    Goodbye
		code int
	}{
		{Goodbye{Mesh: "default", Name: "there", DataplaneToken: "bad"}, 403},
		{Goodbye{Mesh: "default", Name: "there"}, 422},
		{Goodbye{Mesh: "default", DataplaneToken: "good"}, 422},
		{Goodbye{Mesh: "default", Name: "nobody", DataplaneToken: "good"}, 404},
		{Goodbye{Mesh: "default", Name: "there", DataplaneToken: "good"}, 204},
	} {
		if w := post(h, "/goodbye", "cp.example:5678", c.g); w.Code != c.code {
			t.Errorf("%+v: %d %s", c.g, w.Code, w.Body)
		}
	}
	if len(f.goodbye) != 1 || f.goodbye[0].Name != "there" {
		t.Errorf("said goodbye: %v", f.goodbye)
	}
}

// No body takes the process down, and what is answered is a bootstrap.
func FuzzBootstrap(f *testing.F) {
	for _, r := range []Request{
		{Mesh: "default", Name: "web", DataplaneToken: "good", DataplaneResource: inline},
		{Mesh: "default", Name: "there", AdminPort: 1, DynamicMetadata: map[string]string{"": "x"}, DNSPort: 1},
		{Mesh: "default", Name: "there", CACert: certificate(f, true), DataplaneTokenPath: "/x"},
	} {
		b, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "cp.example:5678")
	}
	f.Add([]byte("{"), "[::1]:1")
	h, _ := newHandler(f, func(o *Options) { o.RequireToken, o.ServerNames = false, nil })
	f.Fuzz(func(t *testing.T, body []byte, host string) {
		w := post(h, "/bootstrap", host, string(body))
		switch {
		case w.Code == 200:
			parse(t, w.Body.Bytes())
		case w.Code >= 500:
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w := post(h, "/goodbye", host, string(body)); w.Code >= 500 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
