package xds

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/grpc"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

// dump is what is looked at of Envoy's /config_dump.
type dump struct {
	Configs []struct {
		Active  []dumped `json:"dynamic_active_clusters"`
		Warming []dumped `json:"dynamic_warming_clusters"`
	} `json:"configs"`
}

type dumped struct {
	Cluster struct {
		Name           string `json:"name"`
		ConnectTimeout string `json:"connect_timeout"`
	} `json:"cluster"`
}

// The order that the books keep is what a real Envoy needs: a changed connect timeout is active within a second,
// clusters come and go, and none is left warming.
func TestRealEnvoy(t *testing.T) {
	binary := os.Getenv("ENVOY")
	if binary == "" {
		if found, err := exec.LookPath("envoy"); err == nil {
			binary = found
		}
	}
	if binary == "" {
		t.Skip("no Envoy: put envoy 1.40 on the PATH or name it by ENVOY")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := &world{
		t: t, ctx: ctx, store: memory.New(memory.Options{}),
		hand: &hand{sets: map[resource.Key]*envoy.Set{}, errs: map[resource.Key]error{}},
		seen: &record{open: map[string]Session{}, counters: map[string]Counters{}},
	}
	defer w.store.Close()
	w.put(resource.Key{Kind: resource.KindMesh, Name: "default"}, nil)
	moved := make(chan struct{}, 1)
	w.seen.onReport = func(Progress) {
		select {
		case moved <- struct{}{}:
		default:
		}
	}
	s, err := newServer(Options{
		Store: w.store, Table: resource.NewTable(), Zone: "zone-1", Authenticator: tokens{time.Hour}, Observer: w.seen,
		Logger: slog.New(slog.NewTextHandler(logs{t}, nil)),
	}, w.hand)
	if err != nil {
		t.Fatal(err)
	}
	w.server = s
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	s.Register(gs)
	run, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = gs.Serve(lis) })
	wg.Go(func() { _ = s.Run(run) })
	defer wg.Wait()
	defer gs.Stop()
	defer stop()

	dir := t.TempDir()
	config := fmt.Sprintf(`{
 "node": {"id": "default.web", "cluster": "web"},
 "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
 "dynamic_resources": {"lds_config": {"ads": {}, "resource_api_version": "V3"}, "cds_config": {"ads": {}, "resource_api_version": "V3"},
  "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true, "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}]}},
 "static_resources": {"clusters": [{"name": "ads", "connect_timeout": "1s", "type": "STATIC",
  "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}},
  "load_assignment": {"cluster_name": "ads", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}}}]}]}}]}
}`, lis.Addr().(*net.TCPAddr).Port)
	file, admin := filepath.Join(dir, "envoy.json"), filepath.Join(dir, "admin")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, binary, "-c", file, "--disable-hot-restart", "--concurrency", "1", "--admin-address-path", admin, "-l", "warning")
	cmd.Stdout, cmd.Stderr = out, out

	l, r := xdstest.Listener("l", 0, "r"), xdstest.Route("r", time.Second, "a")
	ea, eb := xdstest.Endpoints("a", 1), xdstest.Endpoints("b", 2)
	second := time.Second
	k := w.register("web", xdstest.Cluster("a", second), ea, l, r)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()

	// live waits until the proxy has a revision and says how long it took.
	live := func(at resource.Revision) time.Duration {
		t.Helper()
		began := time.Now()
		for {
			if r, ok := w.live(k); ok && r >= at && w.seen.now().Connected == 1 {
				return time.Since(began)
			}
			select {
			case <-moved:
			case <-ctx.Done():
				b, _ := os.ReadFile(out.Name())
				t.Fatalf("not live at %v: %s", at, b)
			}
		}
	}
	clustersOf := func() (active map[string]string, warming int) {
		t.Helper()
		addr, err := os.ReadFile(admin)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Get("http://" + string(addr) + "/config_dump")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		defer http.DefaultClient.CloseIdleConnections()
		var d dump
		if err := json.NewDecoder(resp.Body).Decode(&d); err != nil {
			t.Fatal(err)
		}
		active = map[string]string{}
		for _, c := range d.Configs {
			warming += len(c.Warming)
			for _, a := range c.Active {
				active[a.Cluster.Name] = a.Cluster.ConnectTimeout
			}
		}
		return active, warming
	}
	t.Logf("first configuration after %v", live(1))

	for i, step := range []struct {
		name      string
		resources []*envoy.Resource
		want      map[string]string
	}{
		{"changed timeout", []*envoy.Resource{xdstest.Cluster("a", 2*second), ea, l, r}, map[string]string{"a": "2s"}},
		{"added", []*envoy.Resource{xdstest.Cluster("a", 2*second), ea, xdstest.Cluster("b", second), eb, l, xdstest.Route("r", second, "b")}, map[string]string{"a": "2s", "b": "1s"}},
		{"both changed", []*envoy.Resource{xdstest.Cluster("a", 3*second), ea, xdstest.Cluster("b", 3*second), eb, l, xdstest.Route("r", second, "b")}, map[string]string{"a": "3s", "b": "3s"}},
		{"removed", []*envoy.Resource{xdstest.Cluster("b", 3*second), eb, l, xdstest.Route("r", second, "b")}, map[string]string{"b": "3s"}},
		{"added again", []*envoy.Resource{xdstest.Cluster("a", second), ea, xdstest.Cluster("b", 3*second), eb, l, xdstest.Route("r", second, "a")}, map[string]string{"a": "1s", "b": "3s"}},
		{"without endpoints", []*envoy.Resource{xdstest.Cluster("a", second), xdstest.Endpoints("a"), xdstest.Cluster("b", 4*second), xdstest.Endpoints("b"), l, xdstest.Route("r", second, "a")}, map[string]string{"a": "1s", "b": "4s"}},
	} {
		before := w.seen.total()
		took := live(w.publish("web", step.resources...))
		active, warming := clustersOf()
		t.Logf("%s: live after %v, %+v", step.name, took, w.seen.total().minus(before))
		if took > time.Second {
			t.Errorf("%d %s: took %v", i, step.name, took)
		}
		if warming > 0 || fmt.Sprint(active) != fmt.Sprint(step.want) {
			t.Errorf("%d %s: %d warming, active %v, want %v", i, step.name, warming, active, step.want)
		}
	}

	// A listener that Envoy can't take is found among good ones, with Envoy's words.
	bad := xdstest.Resource(listeners.typeURL(), "bad", &listenerv3.Listener{Name: "bad"})
	w.publish("web", xdstest.Cluster("a", second), ea, l, xdstest.Listener("l2", 0, "r"), bad, xdstest.Route("r", second, "a"))
	for w.seen.now().Rejected[k] != 1 {
		select {
		case <-moved:
		case <-ctx.Done():
			t.Fatal("the bad listener was not refused")
		}
	}
	w.seen.mu.Lock()
	f := w.seen.refused[len(w.seen.refused)-1]
	w.seen.mu.Unlock()
	t.Logf("refused: %s %s", f.Name, f.Text)
	if f.Name != "bad" {
		t.Errorf("refused: %+v", f)
	}
	live(w.store.Config().View().Revision())
}
