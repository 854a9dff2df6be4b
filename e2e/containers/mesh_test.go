package containers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

// Ports inside the containers.
const (
	restPort    = "5682/tcp"
	servicePort = "8080/tcp"
	inboundPort = 9000
	// outboundPort of a caller's proxy leads to what it calls.
	outboundPort = 10000
	ingressPort  = 10001
)

// state is the folder of a control plane's own files.
const state = "/var/lib/meridian/"

// mesh is a global and its zones. Each zone has a network of its own; on the global's are control planes alone.
type mesh struct {
	network string
	admin   tls.Certificate
	global  *controlPlane
	zones   []*zone
	// buyers call a service in another zone.
	buyers []caller
}

// controlPlane is a container with a REST API.
type controlPlane struct {
	*unit
	rest *harness.Client
}

// zone is a zone's control plane and what is in its network.
type zone struct {
	name, network, tag string
	cp                 *controlPlane
	// web calls the backend for each request, and is what a test's clients call.
	web *unit
	// backends are the called service's instances, and proxies stand beside them.
	backends, proxies []*unit
	// token is good for every proxy but an ingress.
	token string
}

// newMesh starts a global and two zones, each with a web that calls two instances of a backend, and waits until all
// of it works. tag is the build of all, conf the mesh object.
func newMesh(t *testing.T, tag, conf string) *mesh {
	t.Helper()
	needDocker(t)
	m := &mesh{network: newNetwork(t, "global"), admin: newAdmin(t)}
	m.global = m.controlPlane(t, spec{
		name: "global", image: "global-cp", tag: tag, networks: []string{m.network}, env: map[string]string{},
	})
	if _, err := m.global.rest.Put(within(t, actTime), "/meshes/default", conf); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"zone-1", "zone-2"} {
		m.zones = append(m.zones, m.zone(t, name, tag))
	}
	for _, z := range m.zones {
		m.online(t, z, true, startTime)
		answers(t, z.caller(), "v1", startTime)
		answers(t, z.caller(), "v2", startTime)
	}
	return m
}

// across starts a service in the second zone alone, the zone's ingress, and a caller of the service in the first. The
// mesh is one with mTLS.
func (m *mesh) across(t *testing.T) {
	t.Helper()
	one, two := m.zones[0], m.zones[1]
	two.ingress(t, one)
	two.proxy(t, two.service(t, "till", "till", "v1", false), dataplane{service: "till", version: "v1"})
	buyer := caller{"buyer in " + one.name, one.service(t, "buyer", "buyer", "v1", true)}
	one.proxy(t, buyer.unit, dataplane{service: "buyer", version: "v1", calls: "till"})
	answers(t, buyer, "v1", startTime)
	m.buyers = append(m.buyers, buyer)
}

// callers are the webs of all zones, and those who call another zone.
func (m *mesh) callers() []caller {
	all := slices.Clone(m.buyers)
	for _, z := range m.zones {
		all = append(all, z.caller())
	}
	return all
}

func (z *zone) caller() caller { return caller{"web in " + z.name, z.web} }

// controlPlane starts a control plane with a volume for its state, and a client that it takes for an administrator.
func (m *mesh) controlPlane(t *testing.T, s spec) *controlPlane {
	t.Helper()
	s.ports, s.volume, s.ready = []string{restPort}, newVolume(t, s.name), `{"ready":true`
	s.env["MERIDIAN_API_SERVER_AUTH_CLIENT_CERTS_DIR"] = "/etc/meridian/admins"
	if s.files == nil {
		s.files = map[string]string{}
	}
	s.files["/etc/meridian/admins/test.crt"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.admin.Certificate[0]}))
	cp := &controlPlane{unit: start(t, s)}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(cp.read(t, state+"ca.crt"))) {
		t.Fatalf("%s: no CA", s.name)
	}
	transport := &http.Transport{
		DialContext:         cp.dial(restPort),
		TLSClientConfig:     &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{m.admin}, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 8,
	}
	t.Cleanup(transport.CloseIdleConnections)
	cp.rest = &harness.Client{Base: "https://localhost", HTTP: &http.Client{Timeout: 10 * time.Second, Transport: transport}}
	return cp
}

// zone starts a zone: its control plane, by a token that the global's own meridianctl makes, and its services.
func (m *mesh) zone(t *testing.T, name, tag string) *zone {
	t.Helper()
	z := &zone{name: name, network: newNetwork(t, name), tag: tag}
	token, err := m.global.run(within(t, actTime), "meridianctl", "--address", "http://127.0.0.1:5681",
		"generate", "zone-token", "--zone", name, "--valid-for", "1h")
	if err != nil {
		t.Fatal(err)
	}
	z.cp = m.controlPlane(t, spec{
		name: name, image: "zone-cp", tag: tag, networks: []string{z.network, m.network},
		env: map[string]string{
			"MERIDIAN_MULTIZONE_ZONE_NAME":             name,
			"MERIDIAN_MULTIZONE_ZONE_GLOBAL_ADDRESS":   "grpcs://global:5685",
			"MERIDIAN_MULTIZONE_ZONE_KDS_ROOT_CA_FILE": "/etc/meridian/global.crt",
			"MERIDIAN_MULTIZONE_ZONE_KDS_TOKEN_FILE":   "/etc/meridian/zone.token",
		},
		files: map[string]string{
			"/etc/meridian/global.crt": m.global.read(t, state+"ca.crt"),
			"/etc/meridian/zone.token": token,
		},
	})
	until(t, startTime, "a dataplane token in "+name, func(ctx context.Context) (err error) {
		z.token, err = z.cp.rest.DataplaneToken(ctx, "default", "")
		return err
	})
	z.web = z.service(t, "web", "web", "v1", true)
	z.proxy(t, z.web, dataplane{service: "web", version: "v1", calls: "backend"})
	for _, version := range []string{"v1", "v2"} {
		b := z.service(t, "backend-"+version, "backend", version, false)
		z.backends = append(z.backends, b)
		z.proxies = append(z.proxies, z.proxy(t, b, dataplane{service: "backend", version: version}))
	}
	return z
}

// service starts a service in the zone's network, and on others. One that calls does so through its proxy.
func (z *zone) service(t *testing.T, name, service, version string, calls bool, others ...string) *unit {
	t.Helper()
	port, _, _ := strings.Cut(servicePort, "/")
	command := []string{"serve", port, service, z.name, version}
	if calls {
		command = append(command, fmt.Sprintf("http://127.0.0.1:%d/", outboundPort))
	}
	return start(t, spec{
		name: name, image: "service", tag: suite.present, command: command,
		networks: append([]string{z.network}, others...), ports: []string{servicePort},
	})
}

// dataplane is what a proxy stands for: a service, and the one that it calls, if any.
type dataplane struct{ service, version, calls string }

// proxy starts zone-dp with its Envoy beside a service.
func (z *zone) proxy(t *testing.T, beside *unit, d dataplane) *unit {
	t.Helper()
	port, _, _ := strings.Cut(servicePort, "/")
	networking := fmt.Sprintf(`  address: %s
  inbound:
  - {port: %d, servicePort: %s, tags: {kuma.io/service: %s, kuma.io/protocol: http, version: %s}}
`, beside.addresses(t)[z.network], inboundPort, port, d.service, d.version)
	if d.calls != "" {
		networking += fmt.Sprintf("  outbound: [{port: %d, tags: {kuma.io/service: %s}}]\n", outboundPort, d.calls)
	}
	return z.zoneDP(t, beside, z.token, networking)
}

// ingress starts the zone's ingress, which stands on another zone's network too: it is what of this zone is reached
// from there, under a name.
func (z *zone) ingress(t *testing.T, from *zone) {
	t.Helper()
	raw, _, err := z.cp.rest.Do(within(t, actTime), http.MethodPost, "/tokens", map[string]string{"mesh": "default", "type": "ingress"})
	if err != nil {
		t.Fatal(err)
	}
	holder := z.service(t, z.name+"-ingress", "ingress", "v1", false, from.network)
	z.zoneDP(t, holder, string(raw), fmt.Sprintf(`  address: %s
  ingress: {publicAddress: %s, publicPort: %d}
  inbound: [{port: %d, tags: {kuma.io/service: ingress}}]
`, holder.addresses(t)[from.network], holder.name, ingressPort, ingressPort))
}

func (z *zone) zoneDP(t *testing.T, beside *unit, token, networking string) *unit {
	t.Helper()
	return start(t, spec{
		name: beside.name + "-proxy", image: "zone-dp", tag: z.tag, beside: beside, ready: `{"ready":true`,
		command: []string{
			"run", "--cp-address", "https://" + z.name + ":5678", "--ca-cert-file", "/etc/meridian/ca.crt",
			"--dataplane-token-file", "/etc/meridian/token", "--dataplane-file", "/etc/meridian/dataplane.yaml", "--drain-time", "1s",
		},
		files: map[string]string{
			"/etc/meridian/ca.crt":         z.cp.read(t, state+"ca.crt"),
			"/etc/meridian/token":          token,
			"/etc/meridian/dataplane.yaml": "type: Dataplane\nmesh: default\nname: " + beside.name + "\nnetworking:\n" + networking,
		},
	})
}

// largest is how many objects the zone has taken from the global at once, at most, since a time, by its audit log.
func (z *zone) largest(t *testing.T, since time.Time) int {
	t.Helper()
	most := 0
	for _, m := range regexp.MustCompile(`who="kds global" .*puts=(\d+)`).FindAllStringSubmatch(z.cp.said(t, since), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, n)
	}
	return most
}

// version is the build that a control plane says it is.
func (c *controlPlane) version(t *testing.T) string {
	t.Helper()
	var info struct{ Version string }
	if err := c.rest.Get(within(t, actTime), "/", &info); err != nil {
		t.Fatal(err)
	}
	return info.Version
}

// online waits until the global says that a zone is, or is not, online, and gives how long it took.
func (m *mesh) online(t *testing.T, z *zone, want bool, d time.Duration) time.Duration {
	t.Helper()
	return until(t, d, fmt.Sprintf("%s online: %v", z.name, want), func(ctx context.Context) error {
		zones, err := m.global.rest.ZoneStatus(ctx)
		if err != nil {
			return err
		}
		if s, ok := zones[z.name]; !ok || s.Active != want {
			return fmt.Errorf("/status/zones: %v", zones)
		}
		return nil
	})
}

// live waits until a revision is live on every proxy of all zones that are online, and gives what the zones are.
func (m *mesh) live(t *testing.T, rev uint64) map[string]string {
	t.Helper()
	var p struct {
		State string
		Zones []struct{ Name, State string }
	}
	if err := m.global.rest.Get(within(t, 15*time.Second), fmt.Sprintf("/positions?revision=%d&wait=8s", rev), &p); err != nil {
		t.Fatal(err)
	}
	zones := map[string]string{}
	for _, z := range p.Zones {
		zones[z.Name] = z.State
	}
	if p.State != "live" {
		t.Fatalf("revision %d: %s, %v", rev, p.State, zones)
	}
	return zones
}

// until asks again until it is so, for at most d, and gives how long it took.
func until(t *testing.T, d time.Duration, what string, ask func(context.Context) error) time.Duration {
	t.Helper()
	begun := time.Now()
	if err := harness.Until(within(t, d), what, ask); err != nil {
		t.Fatal(err)
	}
	return time.Since(begun)
}

// newAdmin makes a client certificate that is its own authority.
func newAdmin(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
