package ca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
)

func now() time.Time { return time.Date(2026, 5, 4, 3, 2, 1, 5, time.UTC) }

func generate(t *testing.T, c ca.Config) (cert, key []byte) {
	t.Helper()
	c.Now = now()
	if c.Mesh == "" {
		c.Mesh = "default"
	}
	cert, key, err := ca.Generate(c)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func parse(t *testing.T, certPEM []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(certPEM)
	if block == nil || len(rest) > 0 {
		t.Fatalf("not one PEM block: %s", certPEM)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func uris(c *x509.Certificate) []string {
	var all []string
	for _, u := range c.URIs {
		all = append(all, u.String())
	}
	return all
}

func TestGenerate(t *testing.T) {
	for _, c := range []struct {
		name      string
		config    ca.Config
		algorithm x509.PublicKeyAlgorithm
		keyType   string
		life      time.Duration
	}{
		{"default", ca.Config{}, x509.ECDSA, "EC PRIVATE KEY", ca.DefaultCAValidity},
		{"long mesh name", ca.Config{Mesh: strings.Repeat("m", 253)}, x509.ECDSA, "EC PRIVATE KEY", ca.DefaultCAValidity},
		{"underscore", ca.Config{Mesh: "-my_mesh-"}, x509.ECDSA, "EC PRIVATE KEY", ca.DefaultCAValidity},
		{"rsa", ca.Config{RSABits: 2048, ValidFor: 48 * time.Hour}, x509.RSA, "RSA PRIVATE KEY", 48 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			certPEM, keyPEM := generate(t, c.config)
			mesh := c.config.Mesh
			if mesh == "" {
				mesh = "default"
			}
			cert := parse(t, certPEM)
			if diff := cmp.Diff([]string{"spiffe://" + mesh}, uris(cert)); diff != "" {
				t.Error(diff)
			}
			if got, want := cert.Subject.String(), "CN="+mesh+",OU=Mesh,O=Meridian"; got != want {
				t.Errorf("subject %s, want %s", got, want)
			}
			if cert.PublicKeyAlgorithm != c.algorithm {
				t.Errorf("algorithm %s, want %s", cert.PublicKeyAlgorithm, c.algorithm)
			}
			if block, _ := pem.Decode(keyPEM); block == nil || block.Type != c.keyType {
				t.Errorf("not PEM of %s", c.keyType)
			}
			if !cert.IsCA || !cert.BasicConstraintsValid || !critical(cert, "2.5.29.19") {
				t.Error("CA:TRUE is missing or not critical")
			}
			if want := x509.KeyUsageCertSign | x509.KeyUsageCRLSign; cert.KeyUsage != want {
				t.Errorf("key usage %b, want %b", cert.KeyUsage, want)
			}
			if got, want := cert.NotBefore, now().Add(-10*time.Second).Truncate(time.Second); !got.Equal(want) {
				t.Errorf("not before %s, want %s", got, want)
			}
			if got, want := cert.NotAfter, now().Add(c.life).Truncate(time.Second); !got.Equal(want) {
				t.Errorf("not after %s, want %s", got, want)
			}
			if err := cert.CheckSignatureFrom(cert); err != nil {
				t.Errorf("not self-signed: %v", err)
			}
			again, _ := generate(t, c.config)
			if parse(t, again).SerialNumber.Cmp(cert.SerialNumber) == 0 {
				t.Error("two authorities have one serial number")
			}
			if _, err := ca.Parse(certPEM, keyPEM); err != nil {
				t.Errorf("what was made cannot be read: %v", err)
			}
		})
	}
}

func critical(c *x509.Certificate, oid string) bool {
	for _, e := range c.Extensions {
		if e.Id.String() == oid {
			return e.Critical
		}
	}
	return false
}

func TestGenerateRefuses(t *testing.T) {
	for _, c := range []struct {
		config ca.Config
		want   string
	}{
		{ca.Config{Mesh: "m", RSABits: 2047}, "an RSA key of 2047 bits: it must have from 2048 to 8192"},
		{ca.Config{Mesh: "m", RSABits: 8193}, "an RSA key of 8193 bits: it must have from 2048 to 8192"},
		{ca.Config{Mesh: "m", RSABits: -1}, "an RSA key of -1 bits: it must have from 2048 to 8192"},
		{ca.Config{}, `mesh "" cannot stand in a SPIFFE ID`},
		{ca.Config{Mesh: "a/b"}, `mesh "a/b" cannot stand in a SPIFFE ID`},
		{ca.Config{Mesh: "a.b"}, `mesh "a.b" cannot stand in a SPIFFE ID`},
	} {
		if _, _, err := ca.Generate(c.config); err == nil || err.Error() != c.want {
			t.Errorf("%+v: %v, want %s", c.config, err, c.want)
		}
	}
}

func authority(t *testing.T, c ca.Config) *ca.Authority {
	t.Helper()
	a, err := ca.Parse(generate(t, c))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestIssue(t *testing.T) {
	for _, c := range []struct {
		name     string
		ca       ca.Config
		services []string
		validFor time.Duration
		want     []string
		life     time.Duration
	}{
		{"default", ca.Config{}, []string{"web"}, 0, []string{"spiffe://default/web"}, 24 * time.Hour},
		{
			"sorted and distinct",
			ca.Config{},
			[]string{"web_default_svc_80", "b.example:80", "web_default_svc_80", "A-1"},
			time.Minute,
			[]string{"spiffe://default/A-1", "spiffe://default/b.example:80", "spiffe://default/web_default_svc_80"},
			time.Minute,
		},
		{"under RSA", ca.Config{RSABits: 2048}, []string{"web"}, time.Hour, []string{"spiffe://default/web"}, time.Hour},
		{"no longer than its authority", ca.Config{ValidFor: time.Hour}, []string{"web"}, 2 * time.Hour, []string{"spiffe://default/web"}, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := authority(t, c.ca)
			got, err := a.Issue(t.Context(), ca.Request{Mesh: "default", Services: c.services, ValidFor: c.validFor, Now: now()})
			if err != nil {
				t.Fatal(err)
			}
			leaf := parse(t, got.ChainPEM)
			if diff := cmp.Diff(c.want, uris(leaf)); diff != "" {
				t.Error(diff)
			}
			if leaf.Subject.String() != "" || !critical(leaf, "2.5.29.17") {
				t.Errorf("subject %q: want none, and the alternative names critical", leaf.Subject)
			}
			key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
			if !ok || key.Curve != elliptic.P256() {
				t.Errorf("a workload's key is a %T", leaf.PublicKey)
			}
			if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
				t.Errorf("CA %t, key usage %b", leaf.IsCA, leaf.KeyUsage)
			}
			if diff := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, leaf.ExtKeyUsage); diff != "" {
				t.Error(diff)
			}
			if want := now().Add(c.life).Truncate(time.Second); !leaf.NotAfter.Equal(want) || !got.NotAfter.Equal(want) {
				t.Errorf("not after %s, told %s, want %s", leaf.NotAfter, got.NotAfter, want)
			}
			if want := now().Add(-10 * time.Second).Truncate(time.Second); !leaf.NotBefore.Equal(want) || !got.NotBefore.Equal(want) {
				t.Errorf("not before %s, told %s, want %s", leaf.NotBefore, got.NotBefore, want)
			}
			if _, err := tls.X509KeyPair(got.ChainPEM, got.KeyPEM); err != nil {
				t.Error(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(a.CertPEM())
			for _, usage := range leaf.ExtKeyUsage {
				if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
					t.Error(err)
				}
			}
			foreign := x509.NewCertPool()
			foreign.AppendCertsFromPEM(authority(t, ca.Config{}).CertPEM())
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: foreign, CurrentTime: now()}); err == nil {
				t.Error("another mesh's authority verifies the certificate")
			}
			again, err := a.Issue(t.Context(), ca.Request{Mesh: "default", Services: c.services, Now: now()})
			if err != nil {
				t.Fatal(err)
			}
			if parse(t, again.ChainPEM).SerialNumber.Cmp(leaf.SerialNumber) == 0 {
				t.Error("two certificates have one serial number")
			}
		})
	}
}

func TestIssueRefuses(t *testing.T) {
	a := authority(t, ca.Config{ValidFor: time.Hour})
	if !a.NotAfter().Equal(now().Add(time.Hour).Truncate(time.Second)) {
		t.Errorf("the authority ends at %s", a.NotAfter())
	}
	for _, c := range []struct {
		name    string
		request ca.Request
		want    string
	}{
		{"none", ca.Request{Mesh: "default", Now: now()}, "there is no service to issue a certificate for"},
		{"empty", ca.Request{Mesh: "default", Services: []string{""}, Now: now()}, `service "" cannot stand in a SPIFFE ID`},
		{"relative", ca.Request{Mesh: "default", Services: []string{".."}, Now: now()}, `service ".." cannot stand in a SPIFFE ID`},
		{"slash", ca.Request{Mesh: "default", Services: []string{"web", "a/b"}, Now: now()}, `service "a/b" cannot stand in a SPIFFE ID`},
		{"wildcard", ca.Request{Mesh: "default", Services: []string{"*"}, Now: now()}, `service "*" cannot stand in a SPIFFE ID`},
		{"percent", ca.Request{Mesh: "default", Services: []string{"a%2fb"}, Now: now()}, `service "a%2fb" cannot stand in a SPIFFE ID`},
		{"long", ca.Request{Mesh: "default", Services: []string{strings.Repeat("é", 40)}, Now: now()}, "cannot stand in a SPIFFE ID"},
		{"mesh", ca.Request{Mesh: "a/b", Services: []string{"web"}, Now: now()}, `mesh "a/b" cannot stand in a SPIFFE ID`},
		{"ended", ca.Request{Mesh: "default", Services: []string{"web"}, Now: now().Add(time.Hour)}, `the authority of mesh "default" ended at 2026-05-04T04:02:01Z`},
	} {
		if _, err := a.Issue(t.Context(), c.request); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Issue(ctx, ca.Request{Mesh: "default", Services: []string{"web"}, Now: now()}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// provided makes a self-signed certificate over any key.
func provided(t testing.TB, private any, public any, change func(*x509.Certificate)) []byte {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: now(), NotAfter: now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyBlock(kind string, der []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return keyBlock("PRIVATE KEY", der, err)
}

func TestParse(t *testing.T) {
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	ec224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	strong, _ := rsa.GenerateKey(rand.Reader, 2048)
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	edPublic, ed, _ := ed25519.GenerateKey(rand.Reader)
	sec1, err := x509.MarshalECPrivateKey(ec)
	ecKey := keyBlock("EC PRIVATE KEY", sec1, err)
	ecCert := provided(t, ec, ec.Public(), nil)
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}})
	for _, c := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"SEC 1", ecCert, ecKey, ""},
		{"SEC 1 after its parameters", ecCert, append(parameters, ecKey...), ""},
		{"PKCS#8", ecCert, pkcs8(t, ec), ""},
		{"PKCS#1", provided(t, strong, strong.Public(), nil), keyBlock("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(strong), nil), ""},
		{"RSA in PKCS#8", provided(t, strong, strong.Public(), nil), pkcs8(t, strong), ""},
		{"P-384", provided(t, ec384, ec384.Public(), nil), pkcs8(t, ec384), ""},
		{"Ed25519", provided(t, ed, edPublic, nil), pkcs8(t, ed), ""},
		{"P-224", provided(t, ec224, ec224.Public(), nil), pkcs8(t, ec224), "the key lies on the curve P-224: use P-256, P-384 or P-521"},
		{"weak RSA", provided(t, weak, weak.Public(), nil), pkcs8(t, weak), "an RSA key of 1024 bits: it must have from 2048 to 8192"},
		{"other key", ecCert, pkcs8(t, ec384), "the certificate and the key do not belong together"},
		{"no certificate", ecKey, ecKey, "the certificate is not PEM"},
		{"no PEM", []byte("x"), ecKey, "the certificate is not PEM"},
		{"no key", ecCert, []byte("x"), "the key is not PEM of a private key"},
		{"certificate for key", ecCert, ecCert, "the key is not PEM of a private key"},
		{"torn key", ecCert, keyBlock("PRIVATE KEY", sec1[:40], nil), "the key cannot be read: it must be an unencrypted RSA, ECDSA or Ed25519 key in PKCS#1, SEC 1 or PKCS#8"},
		{"torn certificate", keyBlock("CERTIFICATE", []byte{48, 1}, nil), ecKey, "certificate: x509: malformed certificate"},
		{"two", append(append([]byte{}, ecCert...), ecCert...), ecKey, "there is more than one certificate"},
		{"leaf", provided(t, ec, ec.Public(), func(c *x509.Certificate) { c.IsCA = false }), ecKey, "the certificate is not that of an authority: it lacks CA:TRUE"},
		{"may not sign", provided(t, ec, ec.Public(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), ecKey, "the certificate's key usage does not allow it to sign certificates"},
		{"large certificate", make([]byte, 20<<10), ecKey, "the certificate is larger than 16384 bytes"},
		{"large key", ecCert, make([]byte, 20<<10), "the key is larger than 16384 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := ca.Parse(c.cert, c.key)
			if c.want != "" {
				if err == nil || err.Error() != c.want {
					t.Fatalf("%v, want %s", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.Issue(t.Context(), ca.Request{Mesh: "default", Services: []string{"web"}, Now: now()})
			if err != nil {
				t.Fatal(err)
			}
			if err := parse(t, got.ChainPEM).CheckSignatureFrom(parse(t, a.CertPEM())); err != nil {
				t.Error(err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.Add(provided(f, ec, ec.Public(), nil), pkcs8(f, ec))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		a, err := ca.Parse(cert, key)
		if err != nil {
			if block, _ := pem.Decode(key); block != nil && len(block.Bytes) > 8 && strings.Contains(err.Error(), string(block.Bytes)) {
				t.Errorf("the error quotes the key: %v", err)
			}
			return
		}
		issued, err := a.Issue(t.Context(), ca.Request{Mesh: "default", Services: []string{"web"}, Now: a.NotAfter().Add(-time.Minute)})
		if err != nil {
			return // such as a signature algorithm that its key cannot make
		}
		if err := parse(t, issued.ChainPEM).CheckSignatureFrom(parse(t, a.CertPEM())); err != nil {
			t.Error(err)
		}
	})
}
