package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/sample"
)

// processes is the world of real programs, real Envoys and real traffic.
type processes struct{}

// startTime is how long a program may take to serve.
const startTime = 10 * time.Second

type processCP struct{ *harness.ControlPlane }

func (c processCP) client() *harness.Client { return c.Client() }
func (c processCP) addr(name string) string { return c.Addr(name) }
func (c processCP) caFile() string          { return c.CAFile() }
func (c processCP) dir() string             { return c.Dir }
func (c processCP) kill(*testing.T)         { c.Kill() }
func (c processCP) signal(s syscall.Signal) { c.Process().Signal(s) }
func (c processCP) stop(t *testing.T)       { t.Helper(); must(t, 0, c.Stop()) }

func (c processCP) start(t *testing.T) {
	t.Helper()
	must(t, 0, c.Start(within(t, startTime)))
}

// launch starts a control plane that was prepared, and ends it with the test.
func launch(t *testing.T, c *harness.ControlPlane) processCP {
	t.Helper()
	cp := processCP{c}
	t.Cleanup(func() {
		if t.Failed() && c.Process() != nil {
			log := c.Process().Stderr()
			t.Logf("log of %s:\n%s", c.Name, log[max(0, len(log)-8<<10):])
		}
		if c.Running() {
			c.Process().Signal(syscall.SIGCONT)
			if err := c.Stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
		}
	})
	cp.start(t)
	return cp
}

func (processes) global(t *testing.T) controlPlane {
	t.Helper()
	c, err := suite.programs.Global(path(t.TempDir(), "global"), freePorts(t))
	return launch(t, must(t, c, err))
}

func freePorts(t *testing.T) harness.Ports {
	t.Helper()
	p, err := harness.Ports{}.Free()
	return must(t, p, err)
}

func (processes) zone(t *testing.T, o zoneOptions) controlPlane {
	t.Helper()
	c, err := suite.programs.Zone(path(t.TempDir(), "zone"), freePorts(t), joining(t, o))
	return launch(t, must(t, c, err))
}

// joining is how a zone finds its global; the token is made where none is given.
func joining(t *testing.T, o zoneOptions) harness.ZoneOptions {
	t.Helper()
	if o.global == nil {
		return harness.ZoneOptions{More: o.more}
	}
	h := harness.ZoneOptions{More: o.more, Name: o.name, Address: o.address, CAFile: o.global.caFile(), TokenFile: o.tokenFile}
	if h.Address == "" {
		h.Address = o.global.addr("kds")
	}
	if h.TokenFile == "" {
		token, err := o.global.client().ZoneToken(within(t, 5*time.Second), o.name, time.Hour)
		h.TokenFile = path(t.TempDir(), o.name+".token")
		writeFile(t, h.TokenFile, must(t, token, err))
	}
	return h
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// zoneDP starts zone-dp with an Envoy.
func zoneDP(t *testing.T, zone controlPlane, o proxyOptions) *harness.Process {
	t.Helper()
	address := zone.addr("dpServer")
	if o.catalog {
		address = "http://" + zone.addr("http")
	}
	p, err := suite.programs.Proxy(t.TempDir(), harness.ProxyOptions{
		Name: o.name, Mesh: "default", Dataplane: o.dataplane, Address: address, CAFile: zone.caFile(),
		Token: o.token, Envoy: envoy(t), Drain: 100 * time.Millisecond,
	})
	must(t, p, err)
	keepLog(t, p)
	t.Cleanup(func() {
		if p.Running() {
			_ = p.Stop(10 * time.Second)
		}
	})
	return p
}

func (processes) proxy(t *testing.T, zone controlPlane, o proxyOptions) proxy {
	t.Helper()
	p := zoneDP(t, zone, o)
	ready, err := p.Ready(within(t, 30*time.Second))
	must(t, ready, err)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	t.Cleanup(client.CloseIdleConnections)
	return &envoyProxy{process: p, admin: harness.NewAdmin(ready.Addresses["admin"]), client: client}
}

func (processes) refused(t *testing.T, zone controlPlane, o proxyOptions) string {
	t.Helper()
	p := zoneDP(t, zone, o)
	code, err := p.Wait(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if code != 1 {
		t.Errorf("zone-dp ended with %d, want 1", code)
	}
	return p.Stderr()
}

// envoyProxy is a real Envoy under zone-dp.
type envoyProxy struct {
	process *harness.Process
	admin   harness.Admin
	client  *http.Client
}

func (p *envoyProxy) shares(ctx context.Context, outbound, n int) (map[string]int, error) {
	got := map[string]int{}
	for range n {
		a, err := sample.Call(ctx, p.client, fmt.Sprintf("http://127.0.0.1:%d/", outbound))
		if err != nil {
			return got, err
		}
		got[a.Version]++
	}
	return got, nil
}

func (p *envoyProxy) connectTimeout(ctx context.Context, service string) (time.Duration, error) {
	active, warming, err := p.admin.Clusters(ctx)
	if err != nil {
		return 0, err
	}
	if len(warming) > 0 {
		return 0, fmt.Errorf("clusters warming: %v", warming)
	}
	c, ok := active[service]
	if !ok {
		return 0, fmt.Errorf("no cluster %s", service)
	}
	return c.Timeout()
}

func (p *envoyProxy) stop(t *testing.T) {
	t.Helper()
	if err := p.process.Stop(10 * time.Second); err != nil {
		t.Error(err)
	}
}

func (p *envoyProxy) refuse(string) {}

func (p *envoyProxy) kill(*testing.T) { p.process.Kill() }

// oneLine fails a test unless a text is one line that holds a word.
func oneLine(t *testing.T, text, word string) {
	t.Helper()
	if strings.Contains(text, "\n") || !strings.Contains(text, word) {
		t.Errorf("stderr %q, want one line with %q", text, word)
	}
}
