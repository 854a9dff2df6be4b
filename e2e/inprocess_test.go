package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/goccy/go-yaml"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/simulated"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/globalcp"
	"github.com/meridian-mesh/meridian/pkg/zonecp"
)

// inProcess is the world of control planes in this process and simulated Envoys.
type inProcess struct{}

// runner is what both assemblies are.
type runner interface {
	Run(ctx context.Context) error
	Addrs() map[string]string
	Ready() <-chan struct{}
}

// localCP is a control plane in this process.
type localCP struct {
	work string
	make func(ctx context.Context, log *slog.Logger) (runner, error)

	log    *lockedLog
	addrs  map[string]string
	rest   *harness.Client
	cancel context.CancelFunc
	ended  chan error
}

func (c *localCP) client() *harness.Client { return c.rest }
func (c *localCP) addr(name string) string { return c.addrs[name] }
func (c *localCP) caFile() string          { return path(c.work, "ca.crt") }
func (c *localCP) dir() string             { return c.work }

func (c *localCP) start(t *testing.T) {
	t.Helper()
	cp, err := c.make(within(t, startTime), slog.New(slog.NewTextHandler(c.log, nil)))
	must(t, cp, err)
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.ended = cancel, make(chan error, 1)
	go func() { c.ended <- cp.Run(ctx) }()
	<-cp.Ready()
	c.addrs = cp.Addrs()
	c.rest = harness.NewClient(c.addrs["http"])
}

func (c *localCP) stop(t *testing.T) {
	t.Helper()
	if c.cancel == nil {
		return
	}
	c.cancel()
	c.cancel = nil
	c.rest.Close()
	select {
	case err := <-c.ended:
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it did not stop within 5 s")
	}
}

// kill is a stop: this process can't be killed in part.
func (c *localCP) kill(t *testing.T) { t.Helper(); c.stop(t) }

func newLocal(t *testing.T, work string, make func(context.Context, *slog.Logger) (runner, error)) *localCP {
	t.Helper()
	c := &localCP{work: work, make: make, log: &lockedLog{}}
	t.Cleanup(func() {
		c.stop(t)
		if t.Failed() {
			log := c.log.String()
			t.Logf("log of %s:\n%s", work, log[max(0, len(log)-8<<10):])
		}
	})
	c.start(t)
	return c
}

func (inProcess) global(t *testing.T) controlPlane {
	t.Helper()
	work, file := workDir(t)
	writeFile(t, file, harness.GlobalFile(work, freePorts(t)))
	return newLocal(t, work, func(ctx context.Context, log *slog.Logger) (runner, error) {
		c, _, err := config.LoadGlobal(config.Source{File: file})
		if err != nil {
			return nil, err
		}
		return globalcp.New(ctx, c, log)
	})
}

func (inProcess) zone(t *testing.T, o zoneOptions) controlPlane {
	t.Helper()
	work, file := workDir(t)
	writeFile(t, file, harness.ZoneFile(work, freePorts(t), joining(t, o)))
	return newLocal(t, work, func(ctx context.Context, log *slog.Logger) (runner, error) {
		c, _, err := config.LoadZone(config.Source{File: file})
		if err != nil {
			return nil, err
		}
		return zonecp.New(ctx, c, log)
	})
}

func workDir(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	return dir, path(dir, "config.yaml")
}

func dial(t *testing.T, zone controlPlane, o proxyOptions) *simulated.Proxy {
	t.Helper()
	pem, err := os.ReadFile(zone.caFile())
	must(t, pem, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	s := simulated.Options{Address: zone.addr("dpServer"), Roots: roots, Token: o.token, Node: "default." + o.name}
	if o.dataplane != "" {
		var d struct{ Name string }
		s.Dataplane = asJSON(t, o.dataplane)
		if err := json.Unmarshal([]byte(s.Dataplane), &d); err != nil {
			t.Fatal(err)
		}
		s.Node = "default." + d.Name
	}
	p, err := simulated.Start(s)
	must(t, p, err)
	t.Cleanup(p.Close)
	return p
}

func (inProcess) proxy(t *testing.T, zone controlPlane, o proxyOptions) proxy {
	t.Helper()
	p := dial(t, zone, o)
	select {
	case <-p.Ready():
	case <-within(t, 10*time.Second).Done():
		t.Fatalf("the proxy got no configuration: %v", p.Err())
	}
	return simulatedProxy{p}
}

func (inProcess) refused(t *testing.T, zone controlPlane, o proxyOptions) string {
	t.Helper()
	p := dial(t, zone, o)
	defer p.Close()
	until(t, 5*time.Second, "the proxy is refused", func(context.Context) error {
		if p.Err() == nil {
			return errors.New("no error yet")
		}
		return nil
	})
	select {
	case <-p.Ready():
		t.Error("the proxy got a configuration")
	default:
	}
	return p.Err().Error()
}

// simulatedProxy reads the shares of traffic from the configuration.
type simulatedProxy struct{ *simulated.Proxy }

func (p simulatedProxy) refuse(name string) { p.Refuse(name) }

func (p simulatedProxy) stop(*testing.T) { p.Leave() }
func (p simulatedProxy) kill(*testing.T) { p.Close() }

func (p simulatedProxy) connectTimeout(_ context.Context, service string) (time.Duration, error) {
	c, ok := p.Cluster(service)
	if !ok {
		return 0, fmt.Errorf("cluster %s is not there or warming", service)
	}
	return c.GetConnectTimeout().AsDuration(), nil
}

func (p simulatedProxy) shares(_ context.Context, outbound, n int) (map[string]int, error) {
	routes, err := p.Routes(fmt.Sprintf("outbound:127.0.0.1:%d", outbound))
	if err != nil {
		return nil, err
	}
	if len(routes.GetVirtualHosts()) != 1 || len(routes.VirtualHosts[0].GetRoutes()) == 0 {
		return nil, fmt.Errorf("routes: %v", routes)
	}
	action := routes.VirtualHosts[0].Routes[0].GetRoute()
	split := action.GetWeightedClusters().GetClusters()
	if len(split) == 0 {
		split = []*routev3.WeightedCluster_ClusterWeight{{Name: action.GetCluster(), MetadataMatch: action.GetMetadataMatch()}}
	}
	total := uint32(0)
	for _, s := range split {
		total += max(s.GetWeight().GetValue(), 1)
	}
	got := map[string]int{}
	for _, s := range split {
		versions, err := p.versions(s)
		if err != nil {
			return nil, err
		}
		for _, v := range versions {
			got[v] += n * int(max(s.GetWeight().GetValue(), 1)) / int(total) / len(versions)
		}
	}
	return got, nil
}

// versions of the endpoints that a part of a split leads to.
func (p simulatedProxy) versions(s *routev3.WeightedCluster_ClusterWeight) ([]string, error) {
	e, ok := p.Endpoints(s.GetName())
	if !ok {
		return nil, fmt.Errorf("no endpoints of %s", s.GetName())
	}
	var versions []string
	for _, group := range e.GetEndpoints() {
		for _, lb := range group.GetLbEndpoints() {
			tags := lb.GetMetadata().GetFilterMetadata()["envoy.lb"].GetFields()
			versions = append(versions, tags["version"].GetStringValue())
		}
	}
	if len(versions) == 0 {
		return nil, fmt.Errorf("no endpoint of %s", s.GetName())
	}
	return versions, nil
}

// lockedLog keeps a log.
type lockedLog struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// asJSON turns the YAML of a dataplane into JSON.
func asJSON(t *testing.T, text string) string {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	return string(must(t, raw, err))
}
