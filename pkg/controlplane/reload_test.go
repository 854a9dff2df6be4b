package controlplane_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/config"
)

// pairFiles are a server's certificate and key in files.
type pairFiles struct{ cert, key string }

func newPairFiles(dir string) pairFiles {
	return pairFiles{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
}

// selfSigned holds for an hour from a time.
func selfSigned(t *testing.T, from time.Time) (cert, key []byte) {
	t.Helper()
	cert, key, err := auth.SelfSigned{Server: true, Hosts: []string{"127.0.0.1"}, ValidFor: time.Hour, Now: from}.Make()
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// replace puts other contents in the place of a file's, as a whole.
func replace(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// renew makes another certificate, and gives its DER.
func (p pairFiles) renew(t *testing.T) []byte {
	t.Helper()
	cert, key := selfSigned(t, time.Now())
	replace(t, p.cert, cert)
	replace(t, p.key, key)
	return der(cert)
}

func der(cert []byte) []byte {
	block, _ := pem.Decode(cert)
	return block.Bytes
}

// shown is the certificate that a port shows now to who offers these protocols.
func shown(t *testing.T, addr string, protocols ...string) []byte {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, NextProtos: protocols})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].Raw
}

// eventually asks again and again until it is so: a port says nothing of its own of a change.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// TestCertificatesAreReplaced changes the certificates of all TLS ports while they serve.
func TestCertificatesAreReplaced(t *testing.T) {
	t.Parallel()
	files := map[string]pairFiles{}
	w := newWorld(t, func(g *config.Global, z *config.Zone) {
		for port, to := range map[string][2]*string{
			"global https": {&g.APIServer.HTTPS.TLSCertFile, &g.APIServer.HTTPS.TLSKeyFile},
			"kds":          {&g.Multizone.Global.KDS.TLSCertFile, &g.Multizone.Global.KDS.TLSKeyFile},
			"zone https":   {&z.APIServer.HTTPS.TLSCertFile, &z.APIServer.HTTPS.TLSKeyFile},
			"dpServer":     {&z.DPServer.TLSCertFile, &z.DPServer.TLSKeyFile},
		} {
			p := newPairFiles(t.TempDir())
			if port == "kds" {
				p.cert = filepath.Join(g.General.WorkDir, "ca.crt") // what the zone trusts
			}
			p.renew(t)
			files[port], *to[0], *to[1] = p, p.cert, p.key
		}
	})
	addrs := map[string]string{
		"global https": w.global.Addrs()["https"], "kds": w.global.Addrs()["kds"],
		"zone https": w.zone.Addrs()["https"], "dpServer": w.zone.Addrs()["dpServer"],
	}
	journals := map[string]*journal{"global https": w.globalLog, "kds": w.globalLog, "zone https": w.zoneLog, "dpServer": w.zoneLog}

	// A connection from before goes on, and so does the zone's session.
	before := &http.Client{Transport: w.transport(false, nil)}
	get := func() *tls.ConnectionState {
		resp, err := before.Get("https://" + addrs["global https"] + "/meshes/default")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.TLS
	}
	was := get().PeerCertificates[0].Raw
	sessions := w.sessions()
	t.Run("ports", func(t *testing.T) {
		for port, p := range files {
			t.Run(port, func(t *testing.T) {
				t.Parallel()
				now := p.renew(t)
				for _, protocols := range [][]string{{"h2"}, {"h2", "http/1.1"}, nil} {
					if port == "kds" && len(protocols) == 0 {
						continue // gRPC wants it
					}
					eventually(t, port+" shows the new certificate", func() bool { return bytes.Equal(shown(t, addrs[port], protocols...), now) })
				}

				// What is no use leaves what there is, and is said by its file.
				good, key := selfSigned(t, time.Now())
				ended, endedKey := selfSigned(t, time.Now().Add(-2*time.Hour))
				for name, c := range map[string]struct{ cert, key []byte }{
					"half of the pair": {good, nil}, "half of a file": {good[:len(good)/2], key}, "an empty file": {[]byte{}, key}, "ended": {ended, endedKey},
				} {
					said := strings.Count(journals[port].String(), p.cert)
					replace(t, p.cert, c.cert)
					if c.key != nil {
						replace(t, p.key, c.key)
					}
					eventually(t, port+" complains of "+name, func() bool { return strings.Count(journals[port].String(), p.cert) > said })
					if got := shown(t, addrs[port], "h2"); !bytes.Equal(got, now) {
						t.Errorf("%s shows another certificate after %s", port, name)
					}
				}
				last := p.renew(t)
				eventually(t, port+" shows the last certificate", func() bool { return bytes.Equal(shown(t, addrs[port], "h2"), last) })
			})
		}
	})
	if now := get(); !bytes.Equal(now.PeerCertificates[0].Raw, was) {
		t.Error("the connection was not the old one")
	}
	w.synced()
	if now := w.sessions(); now != sessions {
		t.Errorf("%d sessions of the zone, there were %d", now, sessions)
	}
	// Proxies are told to trust the present one.
	body := `{"mesh": "default", "name": "x", "dataplaneToken": "` + w.mustZone("POST", "/tokens", `{"mesh": "default"}`) +
		`", "dataplaneResource": "{\"type\":\"Dataplane\",\"mesh\":\"default\",\"name\":\"x\",\"networking\":{\"address\":\"127.0.0.1\",\"inbound\":[{\"port\":1,\"tags\":{\"kuma.io/service\":\"x\"}}]}}"}`
	r := w.do(call{base: "https://" + addrs["dpServer"], method: "POST", path: "/bootstrap", body: body})
	trusted, err := os.ReadFile(files["dpServer"].cert)
	if err != nil {
		t.Fatal(err)
	}
	if r.status != 200 || !strings.Contains(r.body, strings.Split(string(trusted), "\n")[1]) {
		t.Errorf("%d, the bootstrap lacks the new certificate: %s", r.status, r.body)
	}
}

// TestClientCAsAreReplaced takes a client's certificate out of the directory, and puts another one in.
func TestClientCAsAreReplaced(t *testing.T) {
	t.Parallel()
	dir := ""
	w := newWorld(t, func(g *config.Global, _ *config.Zone) { dir = g.APIServer.Auth.ClientCertsDir })
	other, otherPEM := clientCertificate(t, "other")
	base := "https://" + w.global.Addrs()["https"]
	// With sessions that are resumed, as browsers do.
	caches := map[*tls.Certificate]tls.ClientSessionCache{&w.cert: tls.NewLRUClientSessionCache(8), &other: tls.NewLRUClientSessionCache(8)}
	status := func(cert *tls.Certificate) int {
		c := clientTLS(nil)
		c.ClientSessionCache = caches[cert]
		// Shown also to whom it does not ask for.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		tr := &http.Transport{DialContext: dialer(true).DialContext, TLSClientConfig: c}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(base + "/global-secrets")
		if err != nil {
			return 0 // a certificate that nobody vouches for ends the handshake
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for range 2 {
		if a, b := status(&w.cert), status(&other); a != 200 || b != 0 {
			t.Fatalf("%d and %d", a, b)
		}
	}
	replace(t, filepath.Join(dir, "other.crt"), otherPEM)
	eventually(t, "the new one is let in", func() bool { return status(&other) == 200 })
	if got := status(&w.cert); got != 200 {
		t.Errorf("the old one: %d", got)
	}

	open := w.do(call{base: base, method: "GET", path: "/global-secrets", remote: true, cert: &w.cert}) // its connection stays
	said := strings.Count(w.globalLog.String(), "broken.pem")
	replace(t, filepath.Join(dir, "broken.pem"), []byte("no certificate"))
	eventually(t, "the broken one is named", func() bool { return strings.Count(w.globalLog.String(), "broken.pem") > said })
	if a, b := status(&w.cert), status(&other); open.status != 200 || a != 200 || b != 200 {
		t.Errorf("%d, %d and %d beside a broken file", open.status, a, b)
	}
	for _, name := range []string{"broken.pem", "ops.pem"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the old one is let in no more", func() bool { return status(&w.cert) == 0 })
	if got := status(&other); got != 200 {
		t.Errorf("the other one: %d", got)
	}
	if r := w.do(call{base: base, method: "GET", path: "/global-secrets", remote: true, cert: &w.cert}); r.status != 200 {
		t.Errorf("the open connection: %d", r.status)
	}
}
