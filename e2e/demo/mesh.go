package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/sample"
)

// patience with one program's start.
const patience = 30 * time.Second

// mesh is everything that runs.
type mesh struct {
	programs   harness.Programs
	envoy, dir string

	global *unit
	zones  []*zone

	services context.CancelFunc
	serving  sync.WaitGroup
	logs     []*os.File
}

// unit is a control plane that can be stopped and started by name.
type unit struct {
	name string
	mu   sync.Mutex
	cp   *harness.ControlPlane
}

// zone is a zone control plane and its proxies.
type zone struct {
	unit
	// entry is the port of the web itself; reports that of the way out of its Envoy to a service of the last zone.
	entry, reports int

	mu      sync.Mutex
	proxies []*harness.Process
}

func newMesh(programs harness.Programs, envoy, dir string) *mesh {
	m := &mesh{programs: programs, envoy: envoy, dir: dir, global: &unit{name: "global"}}
	for _, name := range []string{"zone-1", "zone-2"} {
		m.zones = append(m.zones, &zone{unit: unit{name: name}})
	}
	return m
}

// start brings everything up; what was started is ended by close, also after a failure.
func (m *mesh) start(ctx context.Context) error {
	ports, err := harness.Base(0).Free()
	if err != nil {
		return err
	}
	if m.global.cp, err = m.programs.Global(filepath.Join(m.dir, "global"), ports); err != nil {
		return err
	}
	if err := m.launch(ctx, m.global); err != nil {
		return err
	}
	services, cancel := context.WithCancel(context.Background())
	m.services = cancel
	g, ctx := errgroup.WithContext(ctx)
	for i, z := range m.zones {
		g.Go(func() error {
			if err := m.startZone(ctx, services, z, 10_000*(i+1)); err != nil {
				return fmt.Errorf("%s: %w", z.name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (m *mesh) launch(ctx context.Context, u *unit) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.cp.Running() {
		return nil
	}
	if u.cp.Log == nil {
		log, err := os.Create(filepath.Join(m.dir, u.name+".log"))
		if err != nil {
			return err
		}
		m.logs = append(m.logs, log)
		u.cp.Log = log
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not ready within %s", patience))
	defer cancel()
	return u.cp.Start(ctx)
}

// halt stops a control plane.
func (u *unit) halt() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.cp == nil {
		return nil
	}
	return u.cp.Stop()
}

// client is for the control plane's API, if it runs.
func (u *unit) client() (*harness.Client, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.cp == nil || !u.cp.Running() {
		return nil, false
	}
	return u.cp.Client(), true
}

func (m *mesh) startZone(ctx, services context.Context, z *zone, offset int) error {
	token, err := m.global.cp.Client().ZoneToken(ctx, z.name, 720*time.Hour)
	if err != nil {
		return err
	}
	tokenFile := filepath.Join(m.dir, z.name+".token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		return err
	}
	ports, err := harness.Base(offset).Free()
	if err != nil {
		return err
	}
	z.cp, err = m.programs.Zone(filepath.Join(m.dir, z.name), ports, harness.ZoneOptions{
		Name: z.name, Address: m.global.cp.Addr("kds"), CAFile: m.global.cp.CAFile(), TokenFile: tokenFile,
	})
	if err != nil {
		return err
	}
	if err := m.launch(ctx, &z.unit); err != nil {
		return err
	}
	return m.startServices(ctx, services, z, offset)
}

// startServices starts a zone's services and their proxies: two backends, the web that calls them, and in the last
// zone the reports. Each zone has an ingress, by which the others' proxies come in once the mesh has mTLS.
func (m *mesh) startServices(ctx, services context.Context, z *zone, offset int) error {
	var token string
	err := harness.Until(ctx, "dataplane token", func(ctx context.Context) (err error) {
		token, err = z.cp.Client().DataplaneToken(ctx, "default", "") // once the mesh has come down
		return err
	})
	if err != nil {
		return err
	}
	// Ports near 8080 plus the zone's offset: the web's, its Envoy's, its ways out, the backends', the ingress's and
	// the reports'.
	var port [8]int
	for i := range port {
		if port[i], err = harness.FreePort(8080 + offset + i); err != nil {
			return err
		}
	}
	z.entry, z.reports = port[0], port[3]
	out := port[2]

	type proxy struct {
		name    string
		service sample.Service
		// listen is the port of the service itself; 0: any.
		listen, port int
		outbounds    string
	}
	proxies := []proxy{
		{name: "backend-v1", service: sample.Service{Service: "backend", Version: "v1"}, port: port[4]},
		{name: "backend-v2", service: sample.Service{Service: "backend", Version: "v2"}, port: port[5]},
		{
			name: "web", service: sample.Service{Service: "web", Version: "v1", Calls: fmt.Sprintf("http://127.0.0.1:%d/", out)},
			listen: z.entry, port: port[1],
			outbounds: fmt.Sprintf("  outbound:\n  - {port: %d, tags: {kuma.io/service: backend}}\n  - {port: %d, tags: {kuma.io/service: reports}}\n", out, z.reports),
		},
	}
	if z == m.zones[len(m.zones)-1] {
		proxies = append(proxies, proxy{name: "reports", service: sample.Service{Service: "reports", Version: "v1"}, port: port[7]})
	}
	raw, _, err := z.cp.Client().Do(ctx, http.MethodPost, "/tokens", map[string]string{"mesh": "default", "name": "ingress", "type": "ingress"})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return m.startProxy(ctx, z, "ingress", fmt.Sprintf(`type: Dataplane
mesh: default
name: ingress
networking:
  address: 127.0.0.1
  ingress: {publicAddress: 127.0.0.1, publicPort: %d}
  inbound: [{port: %d, tags: {kuma.io/service: ingress}}]
`, port[6], port[6]), string(raw))
	})
	for _, p := range proxies {
		p.service.Zone = z.name
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.listen))
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		m.serving.Go(func() { _ = p.service.Serve(services, l) })
		dataplane := fmt.Sprintf(`type: Dataplane
mesh: default
name: %s
networking:
  address: 127.0.0.1
  inbound:
  - port: %d
    servicePort: %d
    tags: {kuma.io/service: %s, kuma.io/protocol: http, version: %s}
%s`, p.name, p.port, l.Addr().(*net.TCPAddr).Port, p.service.Service, p.service.Version, p.outbounds)
		g.Go(func() error { return m.startProxy(ctx, z, p.name, dataplane, token) })
	}
	return g.Wait()
}

func (m *mesh) startProxy(ctx context.Context, z *zone, name, dataplane, token string) error {
	p, err := m.programs.Proxy(filepath.Join(m.dir, z.name+"."+name), harness.ProxyOptions{
		Dataplane: dataplane, Address: z.cp.Addr("dpServer"), CAFile: z.cp.CAFile(), Token: token, Envoy: m.envoy,
		Drain: time.Second,
	})
	if err != nil {
		return err
	}
	z.mu.Lock()
	z.proxies = append(z.proxies, p)
	z.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not ready within %s", patience))
	defer cancel()
	_, err = p.Ready(ctx)
	return err
}

// unit finds a control plane by name.
func (m *mesh) unit(name string) (*unit, bool) {
	if name == m.global.name {
		return m.global, true
	}
	for _, z := range m.zones {
		if z.name == name {
			return &z.unit, true
		}
	}
	return nil, false
}

// close ends everything: proxies first, so that they can say goodbye.
func (m *mesh) close() error {
	var g errgroup.Group
	for _, z := range m.zones {
		z.mu.Lock()
		for _, p := range z.proxies {
			g.Go(func() error {
				if !p.Running() {
					return nil
				}
				return p.Stop(10 * time.Second)
			})
		}
		z.mu.Unlock()
	}
	errs := []error{g.Wait()}
	for _, z := range m.zones {
		errs = append(errs, z.halt())
	}
	errs = append(errs, m.global.halt())
	if m.services != nil {
		m.services()
	}
	m.serving.Wait()
	for _, l := range m.logs {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// logTail is the end of the control planes' logs, for a start that failed: the files go with the demo.
func (m *mesh) logTail() string {
	s := ""
	for _, u := range append([]*unit{m.global}, &m.zones[0].unit, &m.zones[1].unit) {
		if u.cp != nil && u.cp.Process() != nil {
			log := u.cp.Process().Stderr()
			s += fmt.Sprintf("\n--- %s\n%s", u.name, log[max(0, len(log)-2000):])
		}
	}
	return s
}
