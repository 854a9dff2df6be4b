package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/sample"
)

// world makes the parts of a scenario. Parts end with the test.
type world interface {
	// global starts a global control plane.
	global(t *testing.T) controlPlane
	// zone starts a zone control plane. Its options name the global, or none.
	zone(t *testing.T, o zoneOptions) controlPlane
	// proxy starts a proxy and waits until it has its first configuration.
	proxy(t *testing.T, zone controlPlane, o proxyOptions) proxy
	// refused starts a proxy that must not come up, and gives the reason.
	refused(t *testing.T, zone controlPlane, o proxyOptions) string
}

// controlPlane is a global or a zone control plane, which keeps its ports and its store when started again.
type controlPlane interface {
	client() *harness.Client
	addr(name string) string
	caFile() string
	// dir is the work directory.
	dir() string
	// kill ends it as abruptly as the world can.
	kill(t *testing.T)
	stop(t *testing.T)
	start(t *testing.T)
}

type zoneOptions struct {
	name   string
	global controlPlane
	// address of the global, if not its own: through a relay.
	address string
	// tokenFile, if empty, is made with a good token.
	tokenFile string
	// more lines of its configuration.
	more string
}

type proxyOptions struct {
	// dataplane as YAML, given inline; or, if empty, name of one that was registered.
	dataplane, name string
	token           string
	// catalog has it find the port for proxies by the API.
	catalog bool
}

// proxy is an Envoy, or what behaves like one.
type proxy interface {
	// shares says how many of n requests to the service behind the outbound port are answered by which version.
	shares(ctx context.Context, outbound, n int) (map[string]int, error)
	// connectTimeout of a service's cluster as it is in use; an error while a cluster is warming.
	connectTimeout(ctx context.Context, service string) (time.Duration, error)
	// refuse tells a simulated Envoy to refuse a resource; a real one is to have its own reason.
	refuse(name string)
	// stop says goodbye.
	stop(t *testing.T)
	// kill ends it without a goodbye.
	kill(t *testing.T)
}

// inBoth runs a scenario in both worlds.
func inBoth(t *testing.T, scenario func(t *testing.T, w world)) {
	t.Helper()
	t.Run("in-process", func(t *testing.T) { scenario(t, inProcess{}) })
	t.Run("processes", func(t *testing.T) {
		envoy(t)
		scenario(t, processes{})
	})
}

// serve runs a sample service until the test ends, and gives its port.
func serve(t *testing.T, s sample.Service) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", s.Service, err)
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// backend is the dataplane of one version of the service that is called, and starts that service.
func backend(t *testing.T, zone, version string) string {
	t.Helper()
	return fmt.Sprintf(`type: Dataplane
mesh: default
name: backend-%s
networking:
  address: 127.0.0.1
  inbound:
  - port: %d
    servicePort: %d
    tags: {kuma.io/service: backend, kuma.io/protocol: http, version: %s}
`, version, freePort(t), serve(t, sample.Service{Service: "backend", Zone: zone, Version: version}), version)
}

// web is the dataplane of the service that calls, with its outbound ports to the backend.
func web(t *testing.T, name string, outbounds ...int) string {
	t.Helper()
	s := fmt.Sprintf(`type: Dataplane
mesh: default
name: %s
networking:
  address: 127.0.0.1
  inbound:
  - port: %d
    servicePort: %d
    tags: {kuma.io/service: web, kuma.io/protocol: http}
  outbound:
`, name, freePort(t), freePort(t))
	for _, port := range outbounds {
		s += fmt.Sprintf("  - {port: %d, tags: {kuma.io/service: backend}}\n", port)
	}
	return s
}

// stage is a zone with a web that calls two versions of a backend.
type stage struct {
	zone     controlPlane
	web      proxy
	outbound int
	token    string
}

// newStage starts the zone's proxies and waits until both versions answer.
func newStage(t *testing.T, w world, zone controlPlane, name string) *stage {
	t.Helper()
	s := &stage{zone: zone, outbound: freePort(t)}
	s.token = dataplaneToken(t, zone, "")
	for _, version := range []string{"v1", "v2"} {
		w.proxy(t, zone, proxyOptions{dataplane: backend(t, name, version), token: s.token})
	}
	s.web = w.proxy(t, zone, proxyOptions{dataplane: web(t, "web", s.outbound), token: s.token})
	s.reaches(t, 5*time.Second, "v1", "v2")
	return s
}

// reaches waits until exactly these versions answer.
func (s *stage) reaches(t *testing.T, d time.Duration, versions ...string) {
	t.Helper()
	until(t, d, fmt.Sprintf("answers from %v", versions), func(ctx context.Context) error {
		got, err := s.web.shares(ctx, s.outbound, 10*len(versions))
		if err != nil {
			return err
		}
		for _, v := range versions {
			if got[v] == 0 {
				return fmt.Errorf("answers: %v", got)
			}
		}
		if len(got) != len(versions) {
			return fmt.Errorf("answers: %v", got)
		}
		return nil
	})
}

// dataplaneToken issues a token on a zone's control plane; an empty name is for any dataplane of the mesh.
func dataplaneToken(t *testing.T, zone controlPlane, name string) string {
	t.Helper()
	var token string
	// The signing key's public half has to be there; a zone that has just started may not have its mesh yet.
	until(t, 5*time.Second, "dataplane token", func(ctx context.Context) (err error) {
		token, err = zone.client().DataplaneToken(ctx, "default", name)
		return err
	})
	return token
}

// put writes an object and gives its revision.
func put(t *testing.T, cp controlPlane, path, body string) uint64 {
	t.Helper()
	rev, err := cp.client().Put(within(t, 10*time.Second), path, body)
	return must(t, rev, err)
}

// route is a TrafficRoute from web to the versions of backend.
func route(v1, v2 int) string {
	return fmt.Sprintf(`{"sources":[{"match":{"kuma.io/service":"web"}}],"destinations":[{"match":{"kuma.io/service":"backend"}}],
"conf":{"split":[{"weight":%d,"destination":{"kuma.io/service":"backend","version":"v1"}},
{"weight":%d,"destination":{"kuma.io/service":"backend","version":"v2"}}]}}`, v1, v2)
}

// timeout is a Timeout from web to backend.
func timeout(connect string) string {
	return fmt.Sprintf(`{"sources":[{"match":{"kuma.io/service":"web"}}],"destinations":[{"match":{"kuma.io/service":"backend"}}],
"conf":{"connectTimeout":%q}}`, connect)
}

// active waits until a zone is, or is not, active on the global.
func active(t *testing.T, global controlPlane, zone string, want bool, d time.Duration) time.Duration {
	t.Helper()
	return until(t, d, fmt.Sprintf("%s active: %v", zone, want), func(ctx context.Context) error {
		zones, err := global.client().ZoneStatus(ctx)
		if err != nil {
			return err
		}
		if z, ok := zones[zone]; !ok || z.Active != want {
			return fmt.Errorf("/status/zones: %v", zones)
		}
		return nil
	})
}

// live waits until a revision is live on every proxy of a zone, as the global says.
func live(t *testing.T, global controlPlane, zone string, rev uint64, d time.Duration) {
	t.Helper()
	until(t, d, fmt.Sprintf("revision %d live in %s", rev, zone), func(ctx context.Context) error {
		p, err := global.client().ZonePosition(ctx, zone)
		if err != nil {
			return err
		}
		if p.Live < rev {
			return fmt.Errorf("position %+v", p)
		}
		return nil
	})
}

// shared are the collections that a zone has as the global has them.
func shared() []string {
	return []string{
		"/meshes", "/zones", "/traffic-permissions", "/traffic-routes", "/timeouts", "/retries", "/external-services",
	}
}

// equal waits until a zone's copy equals the global's state, times included.
func equal(t *testing.T, global, zone controlPlane, d time.Duration) {
	t.Helper()
	until(t, d, "the zone equals the global", func(ctx context.Context) error {
		for _, path := range shared() {
			a, err := list(ctx, global, path)
			if err != nil {
				return err
			}
			b, err := list(ctx, zone, path)
			if err != nil {
				return err
			}
			if diff := cmp.Diff(a, b); diff != "" {
				return fmt.Errorf("%s (-global +zone):\n%s", path, diff)
			}
		}
		return nil
	})
}

// list reads a whole collection.
func list(ctx context.Context, cp controlPlane, path string) ([]map[string]any, error) {
	var page harness.Items[map[string]any]
	if err := cp.client().Get(ctx, path+"?size=10000", &page); err != nil {
		return nil, err
	}
	return page.Items, nil
}

// status is the code of an answer that is no success; 0 for other errors.
func status(err error) int {
	var e *harness.StatusError
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}
