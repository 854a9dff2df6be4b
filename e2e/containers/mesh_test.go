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
	// outboundPort of the web's proxy leads to the backend.
	outboundPort = 10000
)

// state is the folder of a control plane's own files.
const state = "/var/lib/meridian/"

// mesh is a global and its zones. Each zone has a network of its own; on the global's are control planes alone.
type mesh struct {
	network string
	admin   tls.Certificate
	global  *controlPlane
	zones   []*zone
}

// controlPlane is a container with a REST API.
type controlPlane struct {
	*unit
	rest *harness.Client
}

// zone is a zone's control plane and what is in its network.
type zone struct {
	name, network string
	cp            *controlPlane
	// web calls the backend for each request; its port is what a test's client calls.
	web *unit
	// backends are the called service's instances, and proxies stand beside them.
	backends, proxies []*unit
	token             string
}

// newMesh starts a global and two zones, each with a web that calls two instances of a backend, and waits until all
// of it works. tag is the build of all.
func newMesh(t *testing.T, tag string) *mesh {
	t.Helper()
	needDocker(t)
	m := &mesh{network: newNetwork(t, "global"), admin: newAdmin(t)}
	m.global = m.controlPlane(t, spec{
		name: "global", image: "global-cp", tag: tag, networks: []string{m.network},
		env: map[string]string{},
	})
	for _, name := range []string{"zone-1", "zone-2"} {
		m.zones = append(m.zones, m.zone(t, name, tag))
	}
	for _, z := range m.zones {
		m.online(t, z, true, startTime)
		z.serves(t, startTime)
	}
	return m
}

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
	z := &zone{name: name, network: newNetwork(t, name)}
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
	z.web = z.service(t, "web", "web", "v1", fmt.Sprintf("http://127.0.0.1:%d/", outboundPort))
	z.proxy(t, z.web, "web", "v1", tag)
	for _, version := range []string{"v1", "v2"} {
		b := z.service(t, "backend-"+version, "backend", version, "")
		z.backends = append(z.backends, b)
		z.proxies = append(z.proxies, z.proxy(t, b, "backend", version, tag))
	}
	return z
}

// service starts a service in the zone's network.
func (z *zone) service(t *testing.T, name, service, version, calls string) *unit {
	t.Helper()
	port, _, _ := strings.Cut(servicePort, "/")
	command := []string{"serve", port, service, z.name, version}
	if calls != "" {
		command = append(command, calls)
	}
	return start(t, spec{
		name: name, image: "service", tag: suite.present, command: command,
		networks: []string{z.network}, ports: []string{servicePort},
	})
}

// proxy starts zone-dp with its Envoy beside a service.
func (z *zone) proxy(t *testing.T, beside *unit, service, version, tag string) *unit {
	t.Helper()
	outbound := ""
	if service == "web" {
		outbound = fmt.Sprintf("\n  outbound: [{port: %d, tags: {kuma.io/service: backend}}]", outboundPort)
	}
	port, _, _ := strings.Cut(servicePort, "/")
	return start(t, spec{
		name: beside.name + "-proxy", image: "zone-dp", tag: tag, beside: beside, ready: `{"ready":true`,
		command: []string{
			"run", "--cp-address", "https://" + z.name + ":5678", "--ca-cert-file", "/etc/meridian/ca.crt",
			"--dataplane-token-file", "/etc/meridian/token", "--dataplane-file", "/etc/meridian/dataplane.yaml", "--drain-time", "1s",
		},
		files: map[string]string{
			"/etc/meridian/ca.crt": z.cp.read(t, state+"ca.crt"),
			"/etc/meridian/token":  z.token,
			"/etc/meridian/dataplane.yaml": fmt.Sprintf(`type: Dataplane
mesh: default
name: %s
networking:
  address: %s
  inbound:
  - {port: %d, servicePort: %s, tags: {kuma.io/service: %s, kuma.io/protocol: http, version: %s}}%s
`, beside.name, beside.addresses(t)[z.network], inboundPort, port, service, version, outbound),
		},
	})
}

// serves waits until both instances of the backend have answered.
func (z *zone) serves(t *testing.T, d time.Duration) {
	t.Helper()
	z.answers(t, "v1", d)
	z.answers(t, "v2", d)
}

// answers waits until a version of the backend has answered.
func (z *zone) answers(t *testing.T, version string, d time.Duration) {
	t.Helper()
	c := newClient(z.web)
	defer c.CloseIdleConnections()
	until(t, d, fmt.Sprintf("an answer from %s in %s", version, z.name), func(ctx context.Context) error {
		a, err := call(ctx, c)
		if err == nil && a.Version != version {
			err = fmt.Errorf("an answer from %s", a.Version)
		}
		return err
	})
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
