// Package ca is the certificate authority of a mesh: it makes a builtin one, reads any, and issues the
// certificates that workloads prove their services with. It knows no store: whoever holds the keys calls it.
package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	// MinRSABits is the least length of an authority's RSA key: below is no longer safe.
	MinRSABits = 2048
	// MaxRSABits is the greatest: above takes minutes to make.
	MaxRSABits = 8192

	// DefaultCAValidity is how long a builtin authority is good for if nothing is asked for.
	DefaultCAValidity = 10 * 365 * 24 * time.Hour
	// DefaultValidity is how long a workload's certificate is good for if nothing is asked for.
	DefaultValidity = 24 * time.Hour

	// backdate is how far before its making a certificate starts to hold, for clocks that are behind.
	backdate = 10 * time.Second

	// maxPEM bounds what is parsed of a certificate or a key: more than the largest RSA key needs.
	maxPEM = 16 << 10
)

// Issuer makes certificates for workloads. It is safe for concurrent use.
type Issuer interface {
	// Issue makes a key and a certificate for it. An error names what is wrong with the request, and never
	// holds bytes of a key.
	Issue(ctx context.Context, r Request) (*Certificate, error)
}

// Request is what a workload's certificate is to say.
type Request struct {
	Mesh string
	// Services get one SPIFFE ID each; at least one, in any order.
	Services []string
	// ValidFor is counted from Now; DefaultValidity where it is not above zero. A certificate never outlives
	// its authority.
	ValidFor time.Duration
	Now      time.Time
}

// Certificate is a workload's certificate with its key.
type Certificate struct {
	// ChainPEM starts with the workload's certificate and leaves out the root.
	ChainPEM []byte
	// KeyPEM is the private key in PKCS#8.
	KeyPEM []byte
	// NotBefore lies some seconds before the request's Now.
	NotBefore, NotAfter time.Time
}

// Config is what a builtin authority is made from.
type Config struct {
	Mesh string
	// RSABits is the length of an RSA key; 0 asks for ECDSA on P-256.
	RSABits int
	// ValidFor is counted from Now; DefaultCAValidity where it is not above zero.
	ValidFor time.Duration
	Now      time.Time
}

// Generate makes the self-signed root of a mesh, and its private key in the form usual for its kind: PKCS#1 for
// RSA, SEC 1 for ECDSA.
func Generate(c Config) (certPEM, keyPEM []byte, err error) {
	root, err := SpiffeRoot(c.Mesh)
	if err != nil {
		return nil, nil, err
	}
	key, block, err := generateKey(c.RSABits)
	if err != nil {
		return nil, nil, err
	}
	validFor := c.ValidFor
	if validFor <= 0 {
		validFor = DefaultCAValidity
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Meridian"}, OrganizationalUnit: []string{"Mesh"}, CommonName: c.Mesh},
		URIs:                  []*url.URL{root},
		NotBefore:             c.Now.Add(-backdate),
		NotAfter:              c.Now.Add(validFor),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	certPEM, err = sign(template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of mesh %q: %w", c.Mesh, err)
	}
	return certPEM, pem.EncodeToMemory(block), nil
}

func generateKey(rsaBits int) (crypto.Signer, *pem.Block, error) {
	if rsaBits == 0 {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, fmt.Errorf("make a key: %w", err)
		}
		der, err := x509.MarshalECPrivateKey(k)
		return k, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}, err
	}
	if err := checkRSABits(rsaBits); err != nil {
		return nil, nil, err
	}
	k, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	return k, &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}, nil
}

func checkRSABits(bits int) error {
	if bits < MinRSABits || bits > MaxRSABits {
		return fmt.Errorf("an RSA key of %d bits: it must have from %d to %d", bits, MinRSABits, MaxRSABits)
	}
	return nil
}

// sign issues template under a random serial number, as PEM.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1)) // above zero, as RFC 5280 asks
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Authority issues with a key that it holds. It is immutable.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// Parse reads an authority: one certificate, and its private key in PKCS#1, SEC 1 or PKCS#8, both PEM. Keys may
// be RSA within MinRSABits and MaxRSABits, ECDSA on P-256, P-384 or P-521, or Ed25519. No error holds bytes of
// the key.
func Parse(certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, errors.New("the certificate and the key do not belong together")
	}
	return &Authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})}, nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	if len(data) > maxPEM {
		return nil, fmt.Errorf("the certificate is larger than %d bytes", maxPEM)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("the certificate is not PEM")
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("there is more than one certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return nil, errors.New("the certificate is not that of an authority: it lacks CA:TRUE")
	}
	if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("the certificate's key usage does not allow it to sign certificates")
	}
	return cert, nil
}

// parseKey finds the private key in PEM. What the parsers say is left out: it could quote the key.
func parseKey(data []byte) (crypto.Signer, error) {
	if len(data) > maxPEM {
		return nil, fmt.Errorf("the key is larger than %d bytes", maxPEM)
	}
	var block *pem.Block
	for { // "EC PARAMETERS" may stand before a key
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("the key is not PEM of a private key")
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			break
		}
	}
	key := parsePrivate(block.Bytes)
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if err := checkRSABits(k.N.BitLen()); err != nil {
			return nil, err
		}
		return k, nil
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P224() {
			return nil, errors.New("the key lies on the curve P-224: use P-256, P-384 or P-521")
		}
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, errors.New("the key cannot be read: it must be an unencrypted RSA, ECDSA or Ed25519 key in PKCS#1, SEC 1 or PKCS#8")
}

func parsePrivate(der []byte) any {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return k
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k
	}
	return nil
}

// CertPEM is the authority's own certificate: what its workloads' certificates are verified by. The caller may
// keep it and must not change it.
func (a *Authority) CertPEM() []byte { return a.pem }

// NotAfter is when the authority ends, and all that it issued with it.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// Issue implements Issuer.
func (a *Authority) Issue(ctx context.Context, r Request) (*Certificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !r.Now.Before(a.cert.NotAfter) {
		return nil, fmt.Errorf("the authority of mesh %q ended at %s", r.Mesh, a.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	uris, err := spiffeIDs(r.Mesh, r.Services)
	if err != nil {
		return nil, err
	}
	validFor := r.ValidFor
	if validFor <= 0 {
		validFor = DefaultValidity
	}
	notAfter := r.Now.Add(validFor)
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	template := &x509.Certificate{
		URIs:                  uris,
		NotBefore:             r.Now.Add(-backdate),
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	chain, err := sign(template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("sign for mesh %q: %w", r.Mesh, err)
	}
	return &Certificate{
		ChainPEM: chain,
		KeyPEM:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		// What the certificate says has whole seconds.
		NotBefore: template.NotBefore.UTC().Truncate(time.Second),
		NotAfter:  template.NotAfter.UTC().Truncate(time.Second),
	}, nil
}

// spiffeIDs gives the sorted, distinct SPIFFE IDs of services.
func spiffeIDs(mesh string, services []string) ([]*url.URL, error) {
	if len(services) == 0 {
		return nil, errors.New("there is no service to issue a certificate for")
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(services)))
	ids := make([]*url.URL, len(sorted))
	for i, s := range sorted {
		id, err := SpiffeID(mesh, s)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}

// SpiffeRoot is the URI of a mesh: spiffe://<mesh>.
func SpiffeRoot(mesh string) (*url.URL, error) {
	if mesh == "" || !onlyOf(mesh, "-_") {
		return nil, fmt.Errorf("mesh %q cannot stand in a SPIFFE ID", clip(mesh))
	}
	return &url.URL{Scheme: "spiffe", Host: mesh}, nil
}

// SpiffeID is the URI of a service in a mesh: spiffe://<mesh>/<service>. A service may hold what the value of a
// tag may: letters, digits, ".", "_", ":" and "-", but not be a relative path segment.
func SpiffeID(mesh, service string) (*url.URL, error) {
	u, err := SpiffeRoot(mesh)
	if err != nil {
		return nil, err
	}
	if service == "" || service == "." || service == ".." || !onlyOf(service, "._:-") {
		return nil, fmt.Errorf("service %q cannot stand in a SPIFFE ID", clip(service))
	}
	u.Path = "/" + service
	return u, nil
}

func onlyOf(s, also string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && strings.IndexByte(also, c) < 0 {
			return false
		}
	}
	return true
}

// clip keeps what a message quotes short.
func clip(s string) string {
	const limit = 64
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
