package resource

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
)

// maxCABytes bounds what is parsed of a provided CA: keys beyond any use take seconds to check.
const maxCABytes = 16 << 10

// ValidateProvidedCA says what is wrong with a CA that a user brings, both parts PEM. path is that of the
// backend's configuration, "mtls.backends[0].config". A pair that cannot be read is named at its certificate
// and at its key.
func ValidateProvidedCA(path string, cert, key []byte) Violations {
	var v Violations
	certPath, keyPath := fieldPath(path, "cert"), fieldPath(path, "key")
	ca, message := readCA(cert, key)
	if message != "" {
		v.Add(certPath, message)
		v.Add(keyPath, message)
		return v
	}
	if !ca.IsCA || !ca.BasicConstraintsValid {
		v.Add(certPath, "basic constraint CA must be true")
	}
	if !bytes.Equal(ca.RawIssuer, ca.RawSubject) || ca.CheckSignature(ca.SignatureAlgorithm, ca.RawTBSCertificate, ca.Signature) != nil {
		v.Add(certPath, "must be self-signed")
	}
	if ca.KeyUsage&x509.KeyUsageCertSign == 0 {
		v.Add(certPath, "key usage keyCertSign must be set")
	}
	for _, u := range []struct {
		bit  x509.KeyUsage
		name string
	}{
		{x509.KeyUsageDigitalSignature, "digitalSignature"},
		{x509.KeyUsageKeyAgreement, "keyAgreement"},
		{x509.KeyUsageKeyEncipherment, "keyEncipherment"},
	} {
		if ca.KeyUsage&u.bit != 0 {
			v.Add(certPath, "key usage "+u.name+" must not be set")
		}
	}
	return v
}

// readCA returns the only certificate of a pair that belongs together, or says why there is none; never with
// words of the pair.
func readCA(cert, key []byte) (*x509.Certificate, string) {
	if len(cert) > maxCABytes || len(key) > maxCABytes {
		return nil, "the certificate or its key is too large"
	}
	block, rest := pem.Decode(cert)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, "the certificate is not PEM"
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, "there must be one certificate only"
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, "the certificate and its key cannot be read, or do not belong together"
	}
	if _, ok := pair.PrivateKey.(crypto.Signer); !ok {
		return nil, "the key cannot sign"
	}
	return pair.Leaf, ""
}
