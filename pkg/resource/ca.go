package resource

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
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

// Secrets that hold a mesh's CAs: <mesh>, one of these, and the backend's name.
const (
	builtinCert  = ".ca-builtin-cert-"
	builtinKey   = ".ca-builtin-key-"
	providedCert = ".ca-provided-cert-"
	providedKey  = ".ca-provided-key-"
)

// CASource is where one half of a mesh's CA lies, its certificate or its key: in a Secret of the mesh, or in
// the mesh itself. The zero value is nowhere.
type CASource struct {
	// Secret holds the half where its name is not empty.
	Secret Key
	// Inline is the half itself.
	Inline []byte
	// File is what the half is read from by the control plane that takes the mesh. It keeps the bytes in
	// Secret, since no other control plane has the file.
	File string
}

// CASources says where a backend's CA lies in a mesh, whether or not it is there yet. It is the only place that
// knows: who makes and who uses CAs ask it.
func CASources(mesh string, b *meshv1.CertificateAuthorityBackend) (cert, key CASource) {
	switch b.GetType() {
	case backendBuiltin:
		return secretSource(mesh, mesh+builtinCert+b.GetName()), secretSource(mesh, mesh+builtinKey+b.GetName())
	case backendProvided:
		return providedSource(mesh, b, "cert", providedCert), providedSource(mesh, b, "key", providedKey)
	}
	return CASource{}, CASource{}
}

// KeepsKey says whether a Secret of a mesh is one that no proxy may be given anything of: it holds the private key of a
// CA, or one that tokens are signed with. m may be nil: it names secrets that do not show it by their names.
func KeepsKey(mesh string, m *meshv1.Mesh, secret string) bool {
	if isSigningKey(secret) || strings.HasPrefix(secret, mesh+builtinKey) || strings.HasPrefix(secret, mesh+providedKey) {
		return true
	}
	return slices.ContainsFunc(m.GetMtls().GetBackends(), func(b *meshv1.CertificateAuthorityBackend) bool {
		_, key := CASources(mesh, b)
		return secret != "" && key.Secret.Name == secret
	})
}

func secretSource(mesh, name string) CASource {
	return CASource{Secret: Key{Kind: KindSecret, Scope: mesh, Name: name}}
}

func providedSource(mesh string, b *meshv1.CertificateAuthorityBackend, half, infix string) CASource {
	fields := b.GetConf().GetFields()[half].GetStructValue().GetFields()
	if name := fields["secret"].GetStringValue(); name != "" {
		return secretSource(mesh, name)
	}
	if file := fields["file"].GetStringValue(); file != "" {
		s := secretSource(mesh, mesh+infix+b.GetName())
		s.File = file
		return s
	}
	if text := fields["inlineString"].GetStringValue(); text != "" {
		return CASource{Inline: []byte(text)}
	}
	data, err := base64.StdEncoding.DecodeString(fields["inline"].GetStringValue())
	if err != nil || len(data) == 0 {
		return CASource{} // refused when it was written
	}
	return CASource{Inline: data}
}

// Read gives the half, PEM; get finds the objects of one view. It is an error that it is not there, or empty;
// the error names the secret.
func (s CASource) Read(get func(Key) (*Object, bool)) ([]byte, error) {
	data := s.Inline
	if s.Secret.Name != "" {
		o, ok := get(s.Secret)
		if !ok {
			return nil, fmt.Errorf("secret %q is not in mesh %q", s.Secret.Name, s.Secret.Scope)
		}
		secret, err := Decode[systemv1.Secret](o)
		if err != nil {
			return nil, fmt.Errorf("secret %q in mesh %q cannot be read", s.Secret.Name, s.Secret.Scope)
		}
		if data = secret.GetData().GetValue(); len(data) == 0 {
			return nil, fmt.Errorf("secret %q in mesh %q is empty", s.Secret.Name, s.Secret.Scope)
		}
	}
	if len(data) == 0 {
		return nil, errors.New("neither a secret nor inline data is given")
	}
	return data, nil
}

// EnabledCA is the backend that a mesh's mutual TLS rests on; nil where mutual TLS is off.
func EnabledCA(m *meshv1.Mesh) *meshv1.CertificateAuthorityBackend {
	name := m.GetMtls().GetEnabledBackend()
	if name == "" {
		return nil
	}
	for _, b := range m.GetMtls().GetBackends() {
		if b.GetName() == name {
			return b
		}
	}
	return nil
}

// IsBuiltinCA says whether the control plane makes the backend's CA itself.
func IsBuiltinCA(b *meshv1.CertificateAuthorityBackend) bool { return b.GetType() == backendBuiltin }

// BuiltinCA gives the settings of a builtin backend's CA, zero where nothing is set: the bits of an RSA key, and
// for how long it is good.
func BuiltinCA(b *meshv1.CertificateAuthorityBackend) (rsaBits int, validFor time.Duration) {
	ca := confOf(new(Violations), "", b.GetConf()).object("caCert")
	for _, name := range []string{"RSAbits", "rsaBits"} {
		if n := ca.number(name); n != nil {
			rsaBits = int(*n)
		}
	}
	if s := ca.string("expiration"); s != nil {
		validFor, _ = ParseExpiration(*s) // refused when it was written, if it is wrong
	}
	return rsaBits, validFor
}

// WorkloadValidity is for how long a backend's workload certificates are good (dpCert.rotation.expiration); 0
// where nothing is set.
func WorkloadValidity(b *meshv1.CertificateAuthorityBackend) time.Duration {
	d, _ := ParseExpiration(b.GetDpCert().GetRotation().GetExpiration()) // refused when it was written, if it is wrong
	return d
}
