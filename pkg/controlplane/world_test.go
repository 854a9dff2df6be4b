package controlplane_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/controlplane"
	"github.com/meridian-mesh/meridian/pkg/globalcp"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/zonecp"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// world is a global and a joined zone control plane on real listeners, with credentials of every sort.
type world struct {
	t            *testing.T
	global, zone *controlplane.Base
	globalDir    string
	zoneDir      string
	// cert is a client certificate that both trust for their APIs.
	cert tls.Certificate
	// globalLog and zoneLog have what the control planes said.
	globalLog, zoneLog *journal
	tokenFile          string
	stops              []func()

	mu         sync.Mutex
	transports map[transportKey]*http.Transport
}

// journal is a log that may be read while it is written.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func clientCertificate(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// newWorld starts a global control plane and a zone that has joined it. change, if not nil, may alter their
// configurations.
func newWorld(t *testing.T, change func(*config.Global, *config.Zone)) *world {
	t.Helper()
	w := &world{t: t, globalDir: t.TempDir(), zoneDir: t.TempDir(), globalLog: &journal{}, zoneLog: &journal{}, transports: map[transportKey]*http.Transport{}}
	certs := t.TempDir()
	var pem []byte
	w.cert, pem = clientCertificate(t, "ops")
	if err := os.WriteFile(filepath.Join(certs, "ops.pem"), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	g, z := config.DefaultGlobal(), config.DefaultZone()
	g.General.WorkDir, z.General.WorkDir = w.globalDir, w.zoneDir
	g.Store = config.Store{Type: config.StoreSQLite, SQLite: config.SQLite{Path: filepath.Join(w.globalDir, "cp.db")}, EncryptionKeyFile: filepath.Join(t.TempDir(), "store.key")}
	z.Store = config.Store{Type: config.StoreSQLite, SQLite: config.SQLite{Path: filepath.Join(w.zoneDir, "cp.db")}, EncryptionKeyFile: filepath.Join(t.TempDir(), "store.key")}
	for _, a := range []*config.APIServer{&g.APIServer, &z.APIServer} {
		a.HTTP.Port, a.HTTPS.Port, a.HTTPS.Interface, a.Auth.ClientCertsDir = 0, 0, "127.0.0.1", certs
	}
	g.Diagnostics.ServerPort, z.Diagnostics.ServerPort = 0, 0
	g.Multizone.Global.KDS.GRPCPort, g.Multizone.Global.KDS.Interface = 0, "127.0.0.1"
	z.DPServer.Port, z.DPServer.Interface = 0, "127.0.0.1"
	z.Mode, z.Multizone.Zone.Name = config.ModeZone, "zone-1"
	if change != nil {
		change(&g, &z)
	}
	global, err := globalcp.New(t.Context(), &g, w.globalLog.logger())
	if err != nil {
		t.Fatal(err)
	}
	w.global = global.Base
	t.Cleanup(w.stop)
	w.run(global.Base, global.Run)

	w.tokenFile = filepath.Join(t.TempDir(), "token")
	w.join()
	z.Multizone.Zone.GlobalAddress = "grpcs://" + w.global.Addrs()["kds"]
	z.Multizone.Zone.KDS.RootCAFile, z.Multizone.Zone.KDS.TokenFile = filepath.Join(w.globalDir, "ca.crt"), w.tokenFile
	zone, err := zonecp.New(t.Context(), &z, w.zoneLog.logger())
	if err != nil {
		t.Fatal(err)
	}
	w.zone = zone.Base
	w.run(zone.Base, zone.Run)
	w.synced()
	return w
}

// join gives the zone a new token.
func (w *world) join() {
	w.t.Helper()
	if err := os.WriteFile(w.tokenFile, []byte(w.must("POST", "/tokens/zone", `{"zone": "zone-1"}`)), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) run(b *controlplane.Base, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	<-b.Ready()
	w.stops = append(w.stops, func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) stop() {
	for i := len(w.stops) - 1; i >= 0; i-- {
		w.stops[i]()
	}
	w.stops = nil
}

// synced waits until the zone has what the global has now.
func (w *world) synced() {
	w.t.Helper()
	head := w.global.Store.Config().View().Revision()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	v := w.zone.Store.Config().View()
	for {
		if c, ok := v.Cursor("global"); ok && c.Revision >= head {
			return
		}
		// A cursor that moves alone takes no revision, and wakes nobody: write something that does.
		w.must("PUT", "/meshes/default/timeouts/nudge", fmt.Sprintf(`{"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}],"conf":{"connectTimeout":"%dms"}}`, 1+v.Revision()))
		var err error
		if v, err = w.zone.Store.Config().Await(ctx, v.Revision()+1); err != nil {
			w.t.Fatal(err)
		}
	}
}

// rejoined waits until the zone has a session after the one that it had: the end of one is not seen in the zone's
// copy, which may have the reason for it already.
func (w *world) rejoined(sessions int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	log := w.global.Store.Status()
	for v := log.View(); ; {
		if o, ok := v.Get(resource.Key{Kind: resource.KindZoneInsight, Name: "zone-1"}); ok {
			m, err := resource.Decode[systemv1.ZoneInsight](o)
			if err != nil {
				w.t.Fatal(err)
			}
			if all := m.GetSubscriptions(); len(all) > sessions && all[len(all)-1].GetDisconnectTime() == nil {
				return
			}
		}
		var err error
		if v, err = log.Await(ctx, v.Revision()+1); err != nil {
			w.t.Fatal(err)
		}
	}
}

// sessions is how many sessions of the zone were noted.
func (w *world) sessions() int {
	w.t.Helper()
	o, ok := w.global.Store.Status().View().Get(resource.Key{Kind: resource.KindZoneInsight, Name: "zone-1"})
	if !ok {
		return 0
	}
	m, err := resource.Decode[systemv1.ZoneInsight](o)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(m.GetSubscriptions())
}

// call is one HTTP request, from where and as whom.
type call struct {
	// base is scheme://host:port.
	base, method, path, body string
	// remote comes from an address that is not this machine's own, as the control planes see it.
	remote bool
	cert   *tls.Certificate
	header []string
	host   string
}

type reply struct {
	status int
	body   string
	header http.Header
}

// remoteAddr is on every Linux machine, and is not the loopback address that makes an administrator.
const remoteAddr = "127.0.0.2"

func dialer(remote bool) *net.Dialer {
	d := &net.Dialer{}
	if remote {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(remoteAddr)}
	}
	return d
}

func clientTLS(cert *tls.Certificate) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	if cert != nil {
		c.Certificates = []tls.Certificate{*cert}
	}
	return c
}

// transport is the one for calls from there with that certificate: connections are used again.
func (w *world) transport(remote bool, cert *tls.Certificate) *http.Transport {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := transportKey{remote, cert}
	if w.transports[k] == nil {
		w.transports[k] = &http.Transport{DialContext: dialer(remote).DialContext, TLSClientConfig: clientTLS(cert), MaxIdleConnsPerHost: 8}
		w.t.Cleanup(w.transports[k].CloseIdleConnections)
	}
	return w.transports[k]
}

type transportKey struct {
	remote bool
	cert   *tls.Certificate
}

func (w *world) send(ctx context.Context, c call) (reply, error) {
	tr := w.transport(c.remote, c.cert)
	req, err := http.NewRequestWithContext(ctx, c.method, c.base+c.path, strings.NewReader(c.body))
	if err != nil {
		return reply{}, err
	}
	req.Host = c.host
	for i := 0; i+1 < len(c.header); i += 2 {
		req.Header.Add(c.header[i], c.header[i+1])
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		return reply{resp.StatusCode, "", resp.Header}, nil // it has no end
	}
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, string(body), resp.Header}, err
}

func (w *world) do(c call) reply {
	w.t.Helper()
	r, err := w.send(w.t.Context(), c)
	if err != nil {
		w.t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	return r
}

// must does something as the global's administrator.
func (w *world) must(method, path, body string) string {
	w.t.Helper()
	r := w.do(call{base: "http://" + w.global.Addrs()["http"], method: method, path: path, body: body})
	if r.status/100 != 2 {
		w.t.Fatalf("%s %s: %d %s", method, path, r.status, r.body)
	}
	return strings.TrimSpace(r.body)
}

// mustZone does something as the zone's administrator.
func (w *world) mustZone(method, path, body string) string {
	w.t.Helper()
	r := w.do(call{base: "http://" + w.zone.Addrs()["http"], method: method, path: path, body: body})
	if r.status/100 != 2 {
		w.t.Fatalf("%s %s: %d %s", method, path, r.status, r.body)
	}
	return strings.TrimSpace(r.body)
}

// dial opens a gRPC connection.
func (w *world) dial(addr string, remote bool, cert *tls.Certificate) *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(clientTLS(cert))),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
			return dialer(remote).DialContext(ctx, "tcp", a)
		}))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func fingerprint(t *testing.T, c tls.Certificate) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return auth.Fingerprint(leaf)
}
