package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/sample"
)

// withCAs is a mesh with these builtin CAs, one of them or none enabled.
func withCAs(enabled string, names ...string) string {
	backends := []map[string]string{}
	for _, n := range names {
		backends = append(backends, map[string]string{"name": n, "type": "builtin"})
	}
	b, _ := json.Marshal(map[string]any{"type": "Mesh", "name": "default", "mtls": map[string]any{"enabledBackend": enabled, "backends": backends}})
	return string(b)
}

// authorities are the serial numbers of the mesh's CAs that an Envoy verifies its peers with.
func authorities(ctx context.Context, a harness.Admin) ([]string, error) {
	raw, _, err := a.Do(ctx, "GET", "/certs", nil)
	if err != nil {
		return nil, err
	}
	var all struct {
		Certificates []struct {
			CA []certificate `json:"ca_cert"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	var serials []string
	for _, c := range all.Certificates {
		for _, x := range c.CA {
			ofMesh := len(x.SANs) == 1 && x.SANs[0].URI == "spiffe://default"
			if ofMesh && !slices.Contains(serials, x.Serial) {
				serials = append(serials, x.Serial)
			}
		}
	}
	return serials, nil
}

// authority is the one CA of an Envoy.
func (p *envoyProxy) authority(t *testing.T) string {
	t.Helper()
	var one string
	until(t, 5*time.Second, "one CA", func(ctx context.Context) error {
		all, err := authorities(ctx, p.admin)
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("%d: %v", len(all), all)
		}
		if err == nil {
			one = all[0]
		}
		return err
	})
	return one
}

// steady is a caller that calls without pause until it is stopped.
type steady struct {
	stop func()

	mu         sync.Mutex
	ok, failed int
	// failing is the longest time for which every call failed; since when all do is since.
	failing time.Duration
	since   time.Time
}

func callSteadily(t *testing.T, addr string) *steady {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	s := &steady{}
	s.stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(s.stop)
	go func() {
		defer close(ended)
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		for ctx.Err() == nil {
			begun := time.Now()
			_, err := sample.Call(ctx, &http.Client{Transport: transport}, "http://"+addr+"/")
			if ctx.Err() == nil {
				s.note(begun, err)
			}
		}
	}()
	return s
}

func (s *steady) note(begun time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.ok++
		s.since = time.Time{}
		return
	}
	s.failed++
	if s.since.IsZero() {
		s.since = begun
	}
	s.failing = max(s.failing, time.Since(s.since))
}

// answered waits until n more calls were answered.
func (s *steady) answered(t *testing.T, n int) {
	t.Helper()
	s.mu.Lock()
	want := s.ok + n
	s.mu.Unlock()
	until(t, 5*time.Second, fmt.Sprintf("%d more answers", n), func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ok < want {
			return fmt.Errorf("%d are missing", want-s.ok)
		}
		return nil
	})
}

// The way of docs/security.md from one CA to another: through none, each step live before the next. The old CA is
// trusted by nobody afterwards, and can be deleted.
func TestCARotation(t *testing.T) {
	envoy(t)
	p := newPair(t)
	step := func(enabled string, names ...string) {
		t.Helper()
		rev := put(t, p.zone, "/meshes/default", withCAs(enabled, names...))
		if err := p.zone.client().Await(within(t, 5*time.Second), rev); err != nil {
			t.Fatal(err)
		}
	}
	step("ca-1", "ca-1")
	p.answers(t, p.outbound, true)
	p.answers(t, p.inbound, false)
	old, oldCert := p.callee.authority(t), p.caller.certificate(t)

	// Both exist before, and one does not lead to the other.
	step("ca-1", "ca-1", "ca-2")
	var refused *harness.StatusError
	if _, err := p.zone.client().Put(within(t, 5*time.Second), "/meshes/default", withCAs("ca-2", "ca-1", "ca-2")); !errors.As(err, &refused) || refused.Code != http.StatusBadRequest {
		t.Fatalf("straight from one CA to another: %v", err)
	}

	calls := callSteadily(t, p.outbound)
	calls.answered(t, 20)
	begun := time.Now()
	step("", "ca-1", "ca-2")
	calls.answered(t, 20)
	plain := time.Since(begun)
	step("ca-2", "ca-2")
	calls.answered(t, 20)
	calls.stop()
	t.Logf("plain after %s; of %d calls %d failed, none was answered for %s", plain.Round(time.Millisecond), calls.ok+calls.failed, calls.failed, calls.failing.Round(time.Millisecond))
	if calls.failing > 2*time.Second {
		t.Errorf("no call was answered for %s", calls.failing)
	}

	p.answers(t, p.inbound, false)
	if now := p.callee.authority(t); now == old {
		t.Error("the callee still trusts the old CA")
	}
	if now := p.caller.certificate(t); now.Serial == oldCert.Serial {
		t.Error("the caller still shows the old certificate")
	}
	for _, half := range []string{"cert", "key"} {
		if _, err := p.zone.client().Delete(within(t, 5*time.Second), "/meshes/default/secrets/default.ca-builtin-"+half+"-ca-1"); err != nil {
			t.Error(err)
		}
	}
	p.answers(t, p.outbound, true)

	// The insight counts one certificate of each CA.
	until(t, 2*time.Second, "the insight of the caller", func(ctx context.Context) error {
		var insight struct {
			MTLS struct {
				Expires       time.Time `json:"certificateExpirationTime"`
				Last          time.Time `json:"lastCertificateRegeneration"`
				Regenerations int       `json:"certificateRegenerations"`
			} `json:"mTLS"`
		}
		if err := p.zone.client().Get(ctx, "/meshes/default/dataplane-insights/caller", &insight); err != nil {
			return err
		}
		m := insight.MTLS
		if m.Regenerations != 2 || m.Last.Before(begun) || m.Expires.Sub(m.Last).Round(time.Minute) != 24*time.Hour {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
}
