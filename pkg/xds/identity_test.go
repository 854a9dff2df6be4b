package xds

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// office issues with the mesh's CA, and keeps what it was asked for.
type office struct {
	mu       sync.Mutex
	requests []ca.Request
	// refuse is answered while it is not nil.
	refuse error
	// closed, if not nil, keeps everybody waiting.
	closed chan struct{}
}

func (f *office) open(cert, key []byte) (ca.Issuer, error) {
	a, err := ca.Parse(cert, key)
	return clerk{a, f}, err
}

func (f *office) issued() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

func (f *office) set(refuse error, closed chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse, f.closed = refuse, closed
}

type clerk struct {
	a *ca.Authority
	f *office
}

// Issue implements ca.Issuer.
func (c clerk) Issue(ctx context.Context, r ca.Request) (*ca.Certificate, error) {
	c.f.mu.Lock()
	c.f.requests = append(c.f.requests, r)
	refuse, closed := c.f.refuse, c.f.closed
	c.f.mu.Unlock()
	if closed != nil {
		select {
		case <-closed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if refuse != nil {
		return nil, refuse
	}
	return c.a.Issue(ctx, r)
}

// guarded is a world with the real planner: web calls backend, in a mesh that may have mTLS.
type guarded struct {
	*world
	office *office
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{office: &office{}}
	g.world = &world{
		t: t, store: memory.New(memory.Options{}), issuer: g.office.open,
		seen: &record{open: map[string]Session{}, counters: map[string]Counters{}},
	}
	t.Cleanup(func() { _ = g.store.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 1000*time.Hour)
	t.Cleanup(cancel)
	g.ctx = ctx
	g.authority()
	any := []*meshv1.Selector{{Match: map[string]string{"kuma.io/service": "*"}}}
	g.message(resource.KindTrafficRoute, "all", &meshv1.TrafficRoute{Sources: any, Destinations: any, Conf: &meshv1.TrafficRoute_Conf{
		Split: []*meshv1.TrafficRoute_Split{{Weight: 1, Destination: map[string]string{"kuma.io/service": "*"}}},
	}})
	g.serves("web", "web")
	g.serves("backend", "backend")
	g.mesh("24h")
	g.start(Limits{})
	return g
}

func (g *guarded) message(kind resource.Kind, name string, m proto.Message) resource.Revision {
	g.t.Helper()
	spec, err := resource.Encode(m)
	if err != nil {
		g.t.Fatal(err)
	}
	k := resource.Key{Kind: kind, Scope: "default", Name: name}
	if kind == resource.KindMesh {
		k.Scope = ""
	}
	return g.put(k, spec)
}

// mesh turns mTLS on, with certificates that live for so long; "": off.
func (g *guarded) mesh(lifetime string) resource.Revision {
	g.t.Helper()
	m := &meshv1.Mesh{}
	if lifetime != "" {
		m.Mtls = &meshv1.Mesh_Mtls{EnabledBackend: "ca-1", Backends: []*meshv1.CertificateAuthorityBackend{{
			Name: "ca-1", Type: "builtin", DpCert: &meshv1.CertificateAuthorityBackend_DpCert{
				Rotation: &meshv1.CertificateAuthorityBackend_DpCert_Rotation{Expiration: lifetime},
			},
		}}}
	}
	return g.message(resource.KindMesh, "default", m)
}

// authority gives the mesh a new CA.
func (g *guarded) authority() resource.Revision {
	g.t.Helper()
	cert, key, err := ca.Generate(ca.Config{Mesh: "default", Now: time.Now()})
	if err != nil {
		g.t.Fatal(err)
	}
	g.secret("default.ca-builtin-cert-ca-1", cert)
	return g.secret("default.ca-builtin-key-ca-1", key)
}

func (g *guarded) secret(name string, data []byte) resource.Revision {
	return g.message(resource.KindSecret, name, &systemv1.Secret{Data: wrapperspb.Bytes(data)})
}

// serves gives a dataplane its services; it calls backend.
func (g *guarded) serves(name string, services ...string) resource.Revision {
	n := &meshv1.Dataplane_Networking{
		Address:  "127.0.0.1",
		Outbound: []*meshv1.Dataplane_Networking_Outbound{{Port: 10001, Tags: map[string]string{"kuma.io/service": "backend"}}},
	}
	for i, s := range services {
		n.Inbound = append(n.Inbound, &meshv1.Dataplane_Networking_Inbound{
			Port: uint32(8000 + i), Tags: map[string]string{"kuma.io/service": s, "kuma.io/protocol": "http"},
		})
	}
	return g.message(resource.KindDataplane, name, &meshv1.Dataplane{Networking: n})
}

// leaf is the certificate that a client has now.
func leaf(t *testing.T, c *xdstest.Client) *x509.Certificate {
	t.Helper()
	s := c.State()
	block, _ := pem.Decode(s.Certificate(envoy.IdentityCert).GetCertificateChain().GetInlineBytes())
	if block == nil {
		t.Fatalf("no certificate: %v", s.Versions[envoy.SecretType])
	}
	x, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func uris(x *x509.Certificate) (all []string) {
	for _, u := range x.URIs {
		all = append(all, u.String())
	}
	return all
}

// is waits for nothing, and wants a proxy to be live at a revision, or not.
func (g *guarded) is(live bool, name string, at resource.Revision) {
	g.t.Helper()
	synctest.Wait()
	if r, ok := g.live(dataplane(name)); (ok && r >= at) != live {
		g.t.Errorf("%s is at %v (%v), live at %v should be %v", name, r, ok, at, live)
	}
}

// passing lets time go by, and what happens then happen.
func passing(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// A proxy gets a certificate of its services and what to verify others by, is live only with it, and gets the next
// one after four fifths of its life, which holds no position.
func TestCertificates(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t)
		at := g.serves("web", "web", "admin", "web")
		slow := node("web")
		slow.Stalled = []string{envoy.SecretType}
		c := g.connect(slow)
		if _, ok := g.live(dataplane("web")); ok {
			t.Error("joined without having taken in its certificate")
		}
		if err := c.Resume(t.Context(), envoy.SecretType); err != nil {
			t.Fatal(err)
		}
		g.is(true, "web", at)
		first := leaf(t, c)
		if diff := cmp.Diff([]string{"spiffe://default/admin", "spiffe://default/web"}, uris(first)); diff != "" {
			t.Error(diff)
		}
		if s := c.State(); !s.Has(envoy.SecretType, envoy.MeshCA) {
			t.Error("no CA")
		}
		if n := g.seen.total().SDS; n.Sent == 0 || n.Sent != n.Acked {
			t.Errorf("counted: %+v", n)
		}
		passing(24*time.Hour*4/5 - time.Second)
		if n := g.office.issued(); n != 1 {
			t.Errorf("%d certificates issued before it was time", n)
		}
		before := c.State()
		passing(time.Second)
		second := leaf(t, c)
		if second.SerialNumber.Cmp(first.SerialNumber) == 0 || g.office.issued() != 2 {
			t.Error("not rotated")
		}
		if diff := cmp.Diff([]string{"SDS identity_cert"}, since(c, before)); diff != "" {
			t.Error(diff)
		}
		if time.Until(second.NotAfter).Round(time.Minute) != 24*time.Hour {
			t.Errorf("ends at %v", second.NotAfter)
		}
		g.is(true, "web", at)
		if n := len(g.seen.certified); n != 2 || g.seen.certified[1].Backend != "ca-1" || !g.seen.certified[1].NotAfter.Equal(second.NotAfter) {
			t.Errorf("told of %+v", g.seen.certified)
		}
		c.Close()
		synctest.Wait()
		passing(48 * time.Hour)
		if n := g.office.issued(); n != 2 {
			t.Errorf("%d certificates issued, some for a proxy that is gone", n)
		}
	})
}

// An ACK of a rotation that does not come holds no position, and the certificate is not sent again.
func TestRotationHoldsNoPosition(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t)
		o := node("web")
		var stop atomic.Bool
		o.Refuse = func(typeURL string, r *discoveryv3.Resource) string {
			if stop.Load() && r.GetName() == envoy.IdentityCert {
				return "the key is " + r.String()
			}
			return ""
		}
		c := g.connect(o)
		at := g.mesh("10h")
		g.is(true, "web", at)
		stop.Store(true)
		before := c.State()
		passing(8 * time.Hour)
		g.is(true, "web", at)
		if diff := cmp.Diff([]string{"SDS identity_cert !"}, since(c, before)); diff != "" {
			t.Error(diff)
		}
		if len(g.seen.refused) != 1 || g.seen.refused[0].Name != envoy.IdentityCert || strings.Contains(g.seen.refused[0].Text, "key is") {
			t.Errorf("told: %+v", g.seen.refused)
		}
		stop.Store(false)
		passing(8 * time.Hour)
		if len(g.seen.cleared) == 0 || c.State().Err != nil {
			t.Errorf("cleared %v, stream %v", g.seen.cleared, c.State().Err)
		}
	})
}

// A proxy whose services change has a new certificate at once, and is live only with it.
func TestServicesChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t)
		o := node("web")
		c := g.connect(o)
		first := leaf(t, c)
		g.is(true, "web", g.put(resource.Key{Kind: resource.KindRetry, Scope: "default", Name: "r"}, nil))
		gate := make(chan struct{})
		g.office.set(nil, gate)
		at := g.serves("web", "web", "shop")
		g.is(false, "web", at)
		g.is(true, "web", at-1)
		if got := leaf(t, c); got.SerialNumber.Cmp(first.SerialNumber) != 0 {
			t.Error("another certificate before it was issued")
		}
		// Meanwhile all else goes on.
		m := c.State()
		g.serves("web", "web", "shop", "more")
		synctest.Wait()
		if got := since(c, m); !slices.Contains(got, "LDS inbound:127.0.0.1:8002") {
			t.Errorf("came: %v", got)
		}
		close(gate)
		synctest.Wait()
		if diff := cmp.Diff([]string{"spiffe://default/more", "spiffe://default/shop", "spiffe://default/web"}, uris(leaf(t, c))); diff != "" {
			t.Error(diff)
		}
		g.is(true, "web", at+1)
		n := g.office.issued()
		g.put(resource.Key{Kind: resource.KindRetry, Scope: "default", Name: "r"}, []byte{})
		g.serves("backend", "backend", "other")
		if passing(0); g.office.issued() != n {
			t.Error("issued for what does not concern the proxy")
		}
	})
}

// A certificate that still holds is kept over a reconnect and over a restart, and rotated when it would have been.
func TestCertificateSurvives(t *testing.T) {
	for name, between := range map[string]func(*guarded){
		"reconnect": func(*guarded) {},
		"restart":   func(g *guarded) { g.shutdown(); g.start(Limits{}) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := newGuarded(t)
				c := g.connect(node("web"))
				first := leaf(t, c)
				for range 3 {
					passing(6 * time.Hour)
					before := c.State()
					c.Close()
					synctest.Wait()
					between(g)
					o := node("web")
					o.Before = &before
					c = g.connect(o)
					if got := short(c.State().Log); slices.Contains(got, "SDS identity_cert") || g.office.issued() != 1 {
						t.Fatalf("came: %v, issued: %d", got, g.office.issued())
					}
					r := g.mesh("24h") // nothing new
					g.is(true, "web", r)
					if leaf(t, c).SerialNumber.Cmp(first.SerialNumber) != 0 {
						t.Fatal("another certificate")
					}
				}
				passing(24*time.Hour*4/5 - 18*time.Hour)
				if leaf(t, c).SerialNumber.Cmp(first.SerialNumber) == 0 || g.office.issued() != 2 {
					t.Errorf("not rotated, issued: %d", g.office.issued())
				}
				// What was issued for other services, or is to be rotated, is not kept.
				before := c.State()
				c.Close()
				synctest.Wait()
				g.serves("web", "shop")
				between(g)
				o := node("web")
				o.Before = &before
				c = g.connect(o)
				if diff := cmp.Diff([]string{"spiffe://default/shop"}, uris(leaf(t, c))); diff != "" || g.office.issued() != 3 {
					t.Errorf("issued: %d, %s", g.office.issued(), diff)
				}
				before = c.State()
				c.Close()
				synctest.Wait()
				passing(20 * time.Hour)
				between(g)
				o.Before = &before
				c = g.connect(o)
				if g.office.issued() != 4 || !leaf(t, c).NotAfter.After(time.Now().Add(23*time.Hour)) {
					t.Errorf("issued: %d, ends %v", g.office.issued(), leaf(t, c).NotAfter)
				}
			})
		})
	}
}

// A proxy that has kept its certificate over a restart, and forgets it, gets another.
func TestKeptAndForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t)
		c := g.connect(node("web"))
		before := c.State()
		c.Close()
		g.shutdown()
		g.start(Limits{})
		o := node("web")
		o.Before = &before
		c = g.connect(o)
		if g.office.issued() != 1 {
			t.Fatal("issued again")
		}
		second := g.connect(node("web")) // another Envoy that takes over
		if g.office.issued() != 2 {
			t.Errorf("issued %d", g.office.issued())
		}
		if a, b := leaf(t, c), leaf(t, second); a.SerialNumber.Cmp(b.SerialNumber) != 0 {
			t.Error("two certificates for one proxy")
		}
	})
}

// With another CA there are other certificates, and the CA to verify them by.
func TestAuthorityChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t)
		web, backend := g.connect(node("web")), g.connect(node("backend"))
		for _, c := range []*xdstest.Client{web, backend} {
			leaf(t, c)
		}
		at := g.authority()
		g.is(true, "web", at)
		g.is(true, "backend", at)
		o, _ := g.get(resource.Key{Kind: resource.KindSecret, Scope: "default", Name: "default.ca-builtin-cert-ca-1"})
		secret, err := resource.Decode[systemv1.Secret](o)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(secret.GetData().GetValue())
		for _, c := range []*xdstest.Client{web, backend} {
			if _, err := leaf(t, c).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: time.Now()}); err != nil {
				t.Error(err)
			}
		}
	})
}

// mTLS comes and goes under way: clusters and listeners with TLS go out at once, also to a proxy that ACKs late, and
// it has all that they name by then.
func TestSwitch(t *testing.T) {
	for _, stalled := range []string{"", envoy.ClusterType, envoy.ListenerType, envoy.SecretType} {
		t.Run(stalled, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := newGuarded(t)
				g.mesh("")
				o := node("web")
				o.Stalled = []string{stalled}
				c := g.connect(o)
				if g.office.issued() != 0 || len(c.State().Versions[envoy.SecretType]) > 0 {
					t.Error("a certificate without mTLS")
				}
				before := c.State()
				at := g.mesh("1h")
				g.is(stalled == "", "web", at)
				if stalled != "" {
					if err := c.Resume(t.Context(), stalled); err != nil {
						t.Fatal(err)
					}
				}
				g.is(true, "web", at)
				got := since(c, before)
				if !slices.Contains(got, "CDS backend") || !slices.Contains(got, "LDS inbound:127.0.0.1:8000") {
					t.Errorf("came: %v", got)
				}
				leaf(t, c)
				at = g.mesh("")
				g.is(true, "web", at)
				passing(2 * time.Hour)
				if n := g.office.issued(); n != 1 {
					t.Errorf("issued: %d", n)
				}
				at = g.mesh("1h")
				g.is(true, "web", at)
				leaf(t, c)
			})
		})
	}
}

// Where the CA is missing there is TLS and no certificate, and that is shown at the mesh; when it comes, so do they.
func TestWithoutAuthority(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t)
		k := resource.Key{Kind: resource.KindSecret, Scope: "default", Name: "default.ca-builtin-key-ca-1"}
		o, _ := g.get(k)
		g.secret(k.Name, []byte("garbage"))
		c := g.connect(node("web"))
		s := c.State()
		if !s.Has(envoy.ClusterType, "backend") || len(s.Warming) > 0 || s.Certificate(envoy.IdentityCert) != nil || s.Has(envoy.SecretType, envoy.MeshCA) {
			t.Errorf("has %v, warming %v", s.Versions, s.Warming)
		}
		i := slices.IndexFunc(g.seen.refused, func(r Refusal) bool { return r.Name == "mtls" })
		if i < 0 || g.seen.refused[i].Sources[0].Key.Kind != resource.KindMesh || strings.Contains(g.seen.refused[i].Text, "garbage") {
			t.Errorf("told: %+v", g.seen.refused)
		}
		at := g.put(k, o.Spec)
		g.is(true, "web", at)
		leaf(t, c)
		if !slices.ContainsFunc(g.seen.cleared, func(r envoy.Ref) bool { return r.Name == "mtls" }) {
			t.Errorf("cleared: %v", g.seen.cleared)
		}
	})
}

// What can't be issued is shown, holds no position, and is tried again when something of it changes, not before.
func TestIssuingFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t)
		g.office.set(errors.New("no more ink"), nil)
		c := g.connect(node("web"))
		if s := c.State(); s.Certificate(envoy.IdentityCert) != nil || !s.Has(envoy.ListenerType, "inbound:127.0.0.1:8000") {
			t.Errorf("has %v", s.Versions)
		}
		if len(g.seen.refused) != 1 || !strings.Contains(g.seen.refused[0].Text, "no more ink") || g.seen.refused[0].Sources[0].Key.Name != "default" {
			t.Fatalf("told: %+v", g.seen.refused)
		}
		if n := g.seen.now().Rejected[dataplane("web")]; n != 1 {
			t.Errorf("%d rejected", n)
		}
		at := g.serves("backend", "backend")
		g.is(true, "web", at)
		passing(time.Hour)
		if n := g.office.issued(); n != 1 {
			t.Errorf("tried %d times", n)
		}
		g.office.set(nil, nil)
		at = g.mesh("1h")
		g.is(true, "web", at)
		leaf(t, c)
		if n := g.seen.now().Rejected[dataplane("web")]; n != 0 || len(g.seen.cleared) != 1 {
			t.Errorf("%d rejected, cleared %v", n, g.seen.cleared)
		}
		// A rotation that fails leaves the certificate, and is tried once more before that ends.
		first := leaf(t, c)
		g.office.set(errors.New("no more ink"), nil)
		n := g.office.issued()
		passing(54 * time.Minute)
		if got := g.office.issued() - n; got != 2 {
			t.Errorf("tried %d times", got)
		}
		passing(10 * time.Minute)
		if got := g.office.issued() - n; got != 2 || leaf(t, c).SerialNumber.Cmp(first.SerialNumber) != 0 {
			t.Errorf("tried %d times", got)
		}
	})
}

// An issuer that does not answer stops nobody's configuration, and is given up.
func TestIssuerHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t)
		g.office.set(nil, make(chan struct{}))
		c := g.connect(node("web"))
		if _, ok := g.live(dataplane("web")); ok {
			t.Error("joined without a certificate")
		}
		at := g.serves("web", "web", "more")
		synctest.Wait()
		g.is(false, "web", at)
		passing(2*issueTimeout + time.Second)
		g.is(true, "web", at)
		if s := c.State(); s.Certificate(envoy.IdentityCert) != nil || !s.Has(envoy.ListenerType, "inbound:127.0.0.1:8001") {
			t.Errorf("has %v", s.Versions)
		}
	})
}

func TestCertVersion(t *testing.T) {
	issued := time.UnixMilli(1_700_000_000_123)
	expires := issued.Add(time.Hour)
	key, from, to, ok := parseCertVersion(certVersion("k", issued, expires))
	if !ok || key != "k" || !from.Equal(issued) || !to.Equal(expires) {
		t.Errorf("%q %v %v %v", key, from, to, ok)
	}
	for _, s := range []string{"", "k", "k;1", "k;1;x", "k;x;1", "k;1;2;3"} {
		if _, _, _, ok := parseCertVersion(s); ok {
			t.Errorf("%q is taken for a version", s)
		}
	}
}

// The key of a workload is in the secret and nowhere else that is kept or shown.
func TestKeyStaysInTheSecret(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGuarded(t)
		c := g.connect(node("web"))
		s := c.State()
		key := s.Certificate(envoy.IdentityCert).GetPrivateKey().GetInlineBytes()
		if len(key) == 0 {
			t.Fatal("no key")
		}
		body := bytes.Split(key, []byte("\n"))[1]
		for _, text := range []string{fmt.Sprint(s.Versions), fmt.Sprintf("%+v", g.seen.certified)} {
			if strings.Contains(text, string(body)) {
				t.Errorf("the key stands in %s", text)
			}
		}
		for o := range g.store.Config().View().Scan(store.Everything()) {
			if bytes.Contains(o.Spec, body) {
				t.Errorf("the key stands in %s", o.Key)
			}
		}
	})
}
