package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/sample"
)

// secured is a mesh with mTLS, whose certificates live for the given time; "" is without mTLS.
func secured(lifetime string) string {
	if lifetime == "" {
		return `{"type": "Mesh", "name": "default"}`
	}
	return fmt.Sprintf(`{"type": "Mesh", "name": "default", "mtls": {"enabledBackend": "ca-1", "backends": [
{"name": "ca-1", "type": "builtin", "dpCert": {"rotation": {"expiration": %q}}}]}}`, lifetime)
}

// pair is a zone with a caller and a callee.
type pair struct {
	zone           controlPlane
	caller, callee *envoyProxy
	// inbound is the callee's address, outbound and echo those at which the caller's workload finds it, by HTTP and
	// by TCP, where each connection is one between the Envoys too.
	inbound, outbound, echo string
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{zone: processes{}.zone(t, zoneOptions{})}
	token := dataplaneToken(t, p.zone, "")
	in, out, word := freePort(t), freePort(t), freePort(t)
	p.inbound, p.outbound, p.echo = fmt.Sprintf("127.0.0.1:%d", in), fmt.Sprintf("127.0.0.1:%d", out), fmt.Sprintf("127.0.0.1:%d", word)
	p.callee = processes{}.proxy(t, p.zone, proxyOptions{token: token, dataplane: fmt.Sprintf(`type: Dataplane
mesh: default
name: callee
networking:
  address: 127.0.0.1
  inbound:
  - {port: %d, servicePort: %d, tags: {kuma.io/service: backend, kuma.io/protocol: http}}
  - {port: %d, servicePort: %d, tags: {kuma.io/service: echo, kuma.io/protocol: tcp}}
`, in, serve(t, sample.Service{Service: "backend", Version: "v1"}), freePort(t), echo(t))}).(*envoyProxy)
	p.caller = processes{}.proxy(t, p.zone, proxyOptions{
		token: token, dataplane: web(t, "caller", out) + fmt.Sprintf("  - {port: %d, tags: {kuma.io/service: echo}}\n", word),
	}).(*envoyProxy)
	p.answers(t, p.outbound, true)
	return p
}

// call sends one request.
func call(ctx context.Context, addr string) error {
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	_, err := sample.Call(ctx, &http.Client{Transport: tr}, "http://"+addr+"/")
	return err
}

// answers waits until plain requests are answered at an address, or are not.
func (p *pair) answers(t *testing.T, addr string, want bool) {
	t.Helper()
	until(t, 5*time.Second, fmt.Sprintf("answers from %s: %v", addr, want), func(ctx context.Context) error {
		if err := call(ctx, addr); (err == nil) != want {
			return fmt.Errorf("answered: %w", err)
		}
		return nil
	})
}

// settles waits until all proxies have answered a revision, and wants it to be live or rejected.
func (p *pair) settles(t *testing.T, rev uint64, want string) {
	t.Helper()
	if state, zones := settled(t, p.zone, rev, 5*time.Second); state != want {
		t.Fatalf("revision %d is %s, want %s: %v", rev, state, want, zones)
	}
}

// set writes the mesh and waits until the proxies have it.
func (p *pair) set(t *testing.T, lifetime string) {
	t.Helper()
	p.settles(t, put(t, p.zone, "/meshes/default", secured(lifetime)), "live")
}

// certificate is what an Envoy says of its own certificate.
type certificate struct {
	Serial  string `json:"serial_number"`
	Expires string `json:"expiration_time"`
	SANs    []struct {
		URI string `json:"uri"`
	} `json:"subject_alt_names"`
}

// certificates are the distinct ones of an Envoy.
func certificates(ctx context.Context, a harness.Admin) ([]certificate, error) {
	raw, _, err := a.Do(ctx, "GET", "/certs", nil)
	if err != nil {
		return nil, err
	}
	var all struct {
		Certificates []struct {
			Chain []certificate `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	var own []certificate
	for _, c := range all.Certificates {
		for _, x := range c.Chain {
			if !slices.ContainsFunc(own, func(o certificate) bool { return o.Serial == x.Serial }) {
				own = append(own, x)
			}
		}
	}
	return own, nil
}

// certificate is the one certificate of an Envoy.
func (p *envoyProxy) certificate(t *testing.T) certificate {
	t.Helper()
	var one certificate
	until(t, 5*time.Second, "one certificate", func(ctx context.Context) error {
		all, err := certificates(ctx, p.admin)
		if err != nil {
			return err
		}
		if len(all) != 1 {
			return fmt.Errorf("%d certificates: %v", len(all), all)
		}
		one = all[0]
		return nil
	})
	return one
}

// busy sends requests without end, some at a time, until stop is called, which gives how many there were and what
// went wrong.
func (p *pair) busy(t *testing.T) (stop func() (int, []error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var all int
	var failed []error
	var callers sync.WaitGroup
	for range 2 {
		for _, ask := range []func(context.Context) error{
			func(ctx context.Context) error { return call(ctx, p.outbound) },
			func(ctx context.Context) error { return hello(ctx, p.echo) },
		} {
			callers.Go(func() {
				for ctx.Err() == nil {
					one, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
					err := ask(one)
					done()
					mu.Lock()
					if all++; err != nil {
						failed = append(failed, err)
					}
					mu.Unlock()
				}
			})
		}
	}
	t.Cleanup(func() { cancel(); callers.Wait() })
	return func() (int, []error) {
		cancel()
		callers.Wait()
		return all, failed
	}
}

// Certificates that live for seconds are replaced again and again under traffic, and no request fails.
func TestRotationUnderTraffic(t *testing.T) {
	envoy(t)
	p := newPair(t)
	p.set(t, "3s")
	p.answers(t, p.inbound, false)
	until(t, 5*time.Second, "an echo", func(ctx context.Context) error { return hello(ctx, p.echo) })
	stop := p.busy(t)
	both := []*envoyProxy{p.caller, p.callee}
	seen := map[*envoyProxy]map[string]bool{p.caller: {}, p.callee: {}}
	until(t, 12*time.Second, "three rotations of each", func(ctx context.Context) error {
		for _, e := range both {
			all, err := certificates(ctx, e.admin)
			if err != nil {
				return err
			}
			for _, c := range all {
				seen[e][c.Serial] = true
			}
		}
		if a, b := len(seen[p.caller]), len(seen[p.callee]); min(a, b) < 4 {
			return fmt.Errorf("%d and %d certificates", a, b)
		}
		return nil
	})
	n, failed := stop()
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", len(failed), n, failed[0])
	}
	t.Logf("%d requests over at least three rotations of each proxy", n)
}

// connected waits until an Envoy has, or has lost, its control plane.
func (p *envoyProxy) connected(t *testing.T, want int) {
	t.Helper()
	until(t, 10*time.Second, fmt.Sprintf("control plane: %d", want), func(ctx context.Context) error {
		raw, _, err := p.admin.Do(ctx, "GET", "/stats?filter=^control_plane.connected_state$", nil)
		if err != nil {
			return err
		}
		if got := strings.TrimSpace(string(raw)); got != fmt.Sprintf("control_plane.connected_state: %d", want) {
			return errors.New(got)
		}
		return nil
	})
}

// A control plane that is killed and comes back issues nothing anew, and no request notices.
func TestCertificatesSurviveRestart(t *testing.T) {
	envoy(t)
	p := newPair(t)
	p.set(t, "1h")
	p.answers(t, p.inbound, false)
	until(t, 5*time.Second, "an echo", func(ctx context.Context) error { return hello(ctx, p.echo) })
	both := []*envoyProxy{p.caller, p.callee}
	var before []string
	for _, e := range both {
		before = append(before, e.certificate(t).Serial)
	}
	stop := p.busy(t)
	p.zone.kill(t)
	for _, e := range both {
		e.connected(t, 0)
	}
	p.zone.start(t)
	for i, e := range both {
		e.connected(t, 1)
		p.settles(t, put(t, p.zone, "/meshes/default/timeouts/web", timeout(fmt.Sprintf("%ds", 3+i))), "live")
	}
	for i, e := range both {
		if after := e.certificate(t).Serial; after != before[i] {
			t.Errorf("certificate %s became %s", before[i], after)
		}
	}
	if n, failed := stop(); len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", len(failed), n, failed[0])
	}
	// A rotation that is due is not forgotten.
	p.set(t, "2h")
	for i, e := range both {
		if after := e.certificate(t).Serial; after == before[i] {
			t.Error("another lifetime left the certificate as it was")
		}
	}
}

// With mTLS, traffic goes on between proxies that prove their services, and nobody else is let in.
func TestMTLS(t *testing.T) {
	envoy(t)
	p := newPair(t)
	p.answers(t, p.inbound, true)
	p.set(t, "1h")
	p.answers(t, p.outbound, true)
	p.answers(t, p.inbound, false)
	// A client without a certificate sees the callee's, and no more.
	var seen []string
	conn, err := tls.Dial("tcp", p.inbound, &tls.Config{
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, u := range s.PeerCertificates[0].URIs {
				seen = append(seen, u.String())
			}
			return nil
		},
	})
	if err == nil { // with TLS 1.3 the refusal comes after the handshake
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("a client without a certificate was let in: %v", err)
	}
	if !slices.Equal(seen, []string{"spiffe://default/backend", "spiffe://default/echo"}) {
		t.Errorf("the callee proves %v", seen)
	}
	if c := p.caller.certificate(t); len(c.SANs) != 1 || c.SANs[0].URI != "spiffe://default/web" {
		t.Errorf("the caller proves %v", c)
	}

	p.set(t, "")
	p.answers(t, p.outbound, true)
	p.answers(t, p.inbound, true)
	p.set(t, "1h")
	p.answers(t, p.outbound, true)
	p.answers(t, p.inbound, false)
}

// provided is a mesh in the older shape, whose CA lies in secrets that may come later.
const provided = `{"type": "Mesh", "name": "default", "mtls": {"enabled": true, "ca": {"provided": {}}}}`

// newAuthority is a CA of the user's, both parts PEM.
func newAuthority(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, k, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "own"}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	must(t, der, err)
	private, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, private, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// A mesh with mTLS and without its CA lets nobody in, at once and not after Envoy's patience, and says so; with the CA
// traffic comes back.
func TestMTLSWithoutItsCA(t *testing.T) {
	envoy(t)
	p := newPair(t)
	p.settles(t, put(t, p.zone, "/meshes/default", provided), "rejected")
	p.answers(t, p.outbound, false)
	p.answers(t, p.inbound, false)
	if r := rejected(t, p.zone, "Mesh", "default", 5*time.Second); !strings.Contains(r.Reason, `secret "default.ca-provided-cert-provided" is not in mesh "default"`) {
		t.Errorf("shown: %+v", r)
	}
	cert, key := newAuthority(t)
	for name, data := range map[string][]byte{"cert": cert, "key": key} {
		put(t, p.zone, "/meshes/default/secrets/own-"+name,
			fmt.Sprintf(`{"type": "Secret", "mesh": "default", "name": "own-%s", "data": %q}`, name, base64.StdEncoding.EncodeToString(data)))
	}
	rev := put(t, p.zone, "/meshes/default", `{"type": "Mesh", "name": "default", "mtls": {"enabledBackend": "provided", "backends": [
{"name": "provided", "type": "provided", "conf": {"cert": {"secret": "own-cert"}, "key": {"secret": "own-key"}}}]}}`)
	p.settles(t, rev, "live")
	p.answers(t, p.outbound, true)
	p.answers(t, p.inbound, false)
	p.caller.certificate(t)
}
