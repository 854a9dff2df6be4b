package resource

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pair makes a certificate, signed by itself unless a parent is given.
func pair(t *testing.T, change func(*x509.Certificate), parent *x509.Certificate) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(c)
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

func TestProvidedCA(t *testing.T) {
	cert, key := pair(t, nil, nil)
	other, _ := pair(t, nil, nil)
	const path = "mtls.backends[0].config"
	unreadable := fmt.Sprintf("%[1]s.cert: %[2]s\n%[1]s.key: %[2]s\n", path, "the certificate and its key cannot be read, or do not belong together")
	leaf, leafKey := pair(t, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature|x509.KeyUsageKeyAgreement|x509.KeyUsageKeyEncipherment
	}, nil)
	signed, signedKey := pair(t, nil, &x509.Certificate{Subject: pkix.Name{CommonName: "another"}})
	for _, c := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"good", cert, key, ""},
		{"no PEM", []byte("x"), key, fmt.Sprintf("%[1]s.cert: %[2]s\n%[1]s.key: %[2]s\n", path, "the certificate is not PEM")},
		{"two", append(append([]byte{}, cert...), other...), key, fmt.Sprintf("%[1]s.cert: %[2]s\n%[1]s.key: %[2]s\n", path, "there must be one certificate only")},
		{"no key", cert, []byte("x"), unreadable},
		{"foreign key", other, key, unreadable},
		{"large", cert, make([]byte, maxCABytes+1), fmt.Sprintf("%[1]s.cert: %[2]s\n%[1]s.key: %[2]s\n", path, "the certificate or its key is too large")},
		{"leaf", leaf, leafKey, path + `.cert: basic constraint CA must be true
` + path + `.cert: key usage keyCertSign must be set
` + path + `.cert: key usage digitalSignature must not be set
` + path + `.cert: key usage keyAgreement must not be set
` + path + `.cert: key usage keyEncipherment must not be set
`},
		{"not self-signed", signed, signedKey, path + ".cert: must be self-signed\n"},
	} {
		if diff := cmp.Diff(c.want, list(ValidateProvidedCA(path, c.cert, c.key))); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	mesh := func(cert, key []byte) string {
		return fmt.Sprintf(`{"mtls":{"backends":[{"type":"provided","conf":{"cert":{"inline":%q},"key":{"inlineString":%q}}}]}}`,
			base64.StdEncoding.EncodeToString(cert), key)
	}
	if v := validate(t, KindMesh, mesh(cert, key)); v != nil {
		t.Error(v)
	}
	if got := list(validate(t, KindMesh, mesh(other, key))); got != unreadable {
		t.Error(got)
	}
}
