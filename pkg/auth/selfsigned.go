package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"time"
)

// SelfSigned is what a certificate is made from that is its own authority, so that whoever trusts it trusts
// nothing else.
type SelfSigned struct {
	// Name is the subject's common name.
	Name string
	// Server and Client say what it is good for: one of them at least.
	Server, Client bool
	// Hosts are the names and addresses of a server, which needs one at least; localhost comes with them.
	Hosts []string
	// ValidFor is counted from Now; ten years where it is not above zero.
	ValidFor time.Duration
	Now      time.Time
}

// Make makes the certificate and its key, ECDSA on P-256, both PEM. An error names what is wrong with the request.
func (s SelfSigned) Make() (certPEM, keyPEM []byte, err error) {
	life := s.ValidFor
	if life <= 0 {
		life = certificateLife
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: s.Name},
		NotBefore:             s.Now.Add(-clockSkew),
		NotAfter:              s.Now.Add(life),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if s.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		if err := s.addHosts(template); err != nil {
			return nil, nil, err
		}
	}
	if s.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if len(template.ExtKeyUsage) == 0 {
		return nil, nil, errors.New("a certificate is for a server, a client or both")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func (s SelfSigned) addHosts(template *x509.Certificate) error {
	if len(s.Hosts) == 0 {
		return errors.New("a server needs the name or address that its clients call it by")
	}
	for _, h := range slices.Concat(s.Hosts, []string{"localhost"}) {
		switch ip := net.ParseIP(h); {
		case ip != nil:
			template.IPAddresses = append(template.IPAddresses, ip)
		case !isHostname(h):
			return fmt.Errorf("%q is neither a host name nor an address", h)
		case !slices.Contains(template.DNSNames, h):
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return nil
}

// isHostname says whether a name can stand in a certificate: labels of letters, digits, "-" and "_", the first
// perhaps "*".
func isHostname(name string) bool {
	const maxName, maxLabel = 253, 63
	if len(name) > maxName {
		return false
	}
	for i, label := range strings.Split(name, ".") {
		if i == 0 && label == "*" {
			continue
		}
		if label == "" || len(label) > maxLabel {
			return false
		}
		for _, c := range []byte(label) {
			if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
