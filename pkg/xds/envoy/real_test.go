package envoy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// envoyBinary is ENVOY, or envoy on the PATH.
func envoyBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("ENVOY"); path != "" {
		return path
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		t.Skip("needs Envoy: put envoy on the PATH, or its path in ENVOY")
	}
	return path
}

// A real Envoy takes everything that the golden files hold.
func TestEnvoyTakesIt(t *testing.T) {
	binary := envoyBinary(t)
	for _, name := range cases(t) {
		t.Run(name, func(t *testing.T) {
			ix, tr := load(t, name), NewTranslator()
			for _, k := range ix.Proxies() {
				p, err := plan.Build(ix, k)
				if err != nil {
					t.Fatal(err)
				}
				set := tr.Translate(p)
				if len(set.Invalid) > 0 {
					t.Fatal(set.Invalid)
				}
				file := filepath.Join(t.TempDir(), "bootstrap.json")
				if err := os.WriteFile(file, bootstrap(t, set), 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "--log-level", "warn", "-c", file).CombinedOutput()
				if err != nil || strings.Contains(string(out), "eprecated") {
					t.Errorf("%s: %v\n%s", k, err, out)
				}
			}
		})
	}
}

// bootstrap writes a set as a static configuration: what would come beside a resource is put into it.
func bootstrap(t *testing.T, set *Set) []byte {
	t.Helper()
	var clusters, listeners []json.RawMessage
	assignments := map[string]*endpointv3.ClusterLoadAssignment{}
	routes := map[string]*routev3.RouteConfiguration{}
	for _, r := range set.Resources {
		switch m := unpack(t, r.Wire.GetResource()).(type) {
		case *endpointv3.ClusterLoadAssignment:
			assignments[r.Name] = m
		case *routev3.RouteConfiguration:
			routes[r.Name] = m
		}
	}
	for _, r := range set.Resources {
		switch m := unpack(t, r.Wire.GetResource()).(type) {
		case *clusterv3.Cluster:
			if m.GetType() == clusterv3.Cluster_EDS {
				m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
				m.EdsClusterConfig = nil
				m.LoadAssignment = assignments[r.Name]
				m.TransportSocket = nil // its certificates come over a stream that there is not
			}
			clusters = append(clusters, toJSON(t, m))
		case *listenerv3.Listener:
			for _, chain := range m.GetFilterChains() {
				chain.TransportSocket = nil
				for _, f := range chain.GetFilters() {
					hcm, ok := unpack(t, f.GetTypedConfig()).(*hcmv3.HttpConnectionManager)
					if !ok || hcm.GetRds() == nil {
						continue
					}
					hcm.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes[hcm.GetRds().GetRouteConfigName()]}
					packed, err := anypb.New(hcm)
					if err != nil {
						t.Fatal(err)
					}
					f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
				}
			}
			listeners = append(listeners, toJSON(t, m))
		}
	}
	out, err := json.MarshalIndent(map[string]any{
		"node":            map[string]string{"id": "test", "cluster": "test"},
		"staticResources": map[string]any{"clusters": clusters, "listeners": listeners},
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unpack(t *testing.T, a *anypb.Any) proto.Message {
	t.Helper()
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func toJSON(t *testing.T, m proto.Message) json.RawMessage {
	t.Helper()
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A request goes from a workload through its proxy's outbound, over HTTP/2 to the other proxy's inbound, to the
// service, as the route says.
func TestEnvoyServes(t *testing.T) {
	binary := envoyBinary(t)
	for _, protocol := range []string{"http", "tcp"} {
		t.Run(protocol, func(t *testing.T) {
			workload := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s %s", r.Proto, r.URL.Path)
			}))
			defer workload.Close()
			inbound, outbound := freePort(t), freePort(t)
			log := indextest.New()
			if err := log.PutYAML(fmt.Sprintf(`
type: Mesh
name: default
---
type: Dataplane
mesh: default
name: backend
networking:
  address: 127.0.0.1
  inbound: [{port: %d, servicePort: %d, tags: {kuma.io/service: backend, kuma.io/protocol: %s, version: v1}}]
---
type: Dataplane
mesh: default
name: gone
networking:
  address: 127.0.0.9
  inbound: [{port: 1, tags: {kuma.io/service: backend, kuma.io/protocol: %[3]s, version: v2}}]
---
type: Dataplane
mesh: default
name: web
networking:
  address: 127.0.0.1
  gateway: {tags: {kuma.io/service: web}}
  outbound: [{port: %[4]d, tags: {kuma.io/service: backend}}]
---
type: TrafficRoute
mesh: default
name: all
sources: [{match: {kuma.io/service: web}}]
destinations: [{match: {kuma.io/service: backend}}]
conf: {split: [{weight: 1, destination: {kuma.io/service: backend, version: v1}}], loadBalancer: {leastRequest: {}}}
`, inbound, port(t, workload.Listener), protocol, outbound)); err != nil {
				t.Fatal(err)
			}
			ix, tr := index.New("zone-1", log.View()), NewTranslator()
			for _, name := range []string{"backend", "web"} {
				p, err := plan.Build(ix, resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: name})
				if err != nil {
					t.Fatal(err)
				}
				set := tr.Translate(p)
				if len(set.Invalid) > 0 {
					t.Fatal(set.Invalid)
				}
				startEnvoy(t, binary, bootstrap(t, set))
			}
			awaitListener(t, inbound)
			awaitListener(t, outbound)
			for range 10 {
				answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/hello", outbound))
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(answer.Body)
				answer.Body.Close()
				if err != nil || answer.StatusCode != http.StatusOK || string(body) != "HTTP/1.1 /hello" {
					t.Fatalf("%d %q, %v", answer.StatusCode, body, err)
				}
				if via := answer.Header.Get("Server"); (via == "envoy") != (protocol == "http") {
					t.Errorf("server is %q for %s", via, protocol)
				}
			}
		})
	}
}

// awaitListener tries until somebody listens: Envoy's workers open their ports after the last thing that it
// says.
func awaitListener(t *testing.T, port int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// startEnvoy runs until the end of the test, and returns when it starts to serve.
func startEnvoy(t *testing.T, binary string, config []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--disable-hot-restart", "--concurrency", "1", "--log-level", "info", "-c", file)
	output, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	var said []string
	ready := false
	for !ready && lines.Scan() {
		said = append(said, lines.Text())
		ready = strings.Contains(lines.Text(), "starting workers")
	}
	rest := make(chan struct{})
	go func() {
		defer close(rest)
		for lines.Scan() {
		}
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-rest
		_ = cmd.Wait() // killed: its status says nothing
	})
	if !ready {
		t.Fatalf("Envoy did not start:\n%s", strings.Join(said, "\n"))
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return port(t, l)
}

func port(t *testing.T, l net.Listener) int {
	t.Helper()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("%v is no TCP address", l.Addr())
	}
	return addr.Port
}
