package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
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
	// inbound is the callee's address, outbound the one at which the caller's workload finds it.
	inbound, outbound string
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{zone: processes{}.zone(t, zoneOptions{})}
	token := dataplaneToken(t, p.zone, "")
	in, out := freePort(t), freePort(t)
	p.inbound, p.outbound = fmt.Sprintf("127.0.0.1:%d", in), fmt.Sprintf("127.0.0.1:%d", out)
	p.callee = processes{}.proxy(t, p.zone, proxyOptions{token: token, dataplane: fmt.Sprintf(`type: Dataplane
mesh: default
name: callee
networking:
  address: 127.0.0.1
  inbound:
  - {port: %d, servicePort: %d, tags: {kuma.io/service: backend, kuma.io/protocol: http}}
`, in, serve(t, sample.Service{Service: "backend", Version: "v1"}))}).(*envoyProxy)
	p.caller = processes{}.proxy(t, p.zone, proxyOptions{token: token, dataplane: web(t, "caller", out)}).(*envoyProxy)
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

// set writes the mesh and waits until the proxies have it.
func (p *pair) set(t *testing.T, lifetime string) {
	t.Helper()
	rev := put(t, p.zone, "/meshes/default", secured(lifetime))
	if err := p.zone.client().Await(within(t, 5*time.Second), rev); err != nil {
		t.Fatal(err)
	}
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
	if !slices.Equal(seen, []string{"spiffe://default/backend"}) {
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
