package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// certificateLife is for how long the certificates are made that a control plane makes for itself.
const certificateLife = 10 * 365 * 24 * time.Hour

// ServerCertificate is what a TLS port shows, and what its clients trust.
type ServerCertificate struct {
	Certificate tls.Certificate
	// CA is PEM that verifies Certificate.
	CA []byte
}

// TLS gives the configuration of a server that shows the certificate. With clientCAs a client may show a
// certificate of its own, and one that they do not verify ends the handshake; without, none is asked for.
func (c *ServerCertificate) TLS(clientCAs *x509.CertPool) *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{c.Certificate}}
	if clientCAs != nil {
		t.ClientAuth = tls.VerifyClientCertIfGiven
		t.ClientCAs = clientCAs
	}
	return t
}

// LoadServerCertificate reads a certificate with its chain and its key from PEM files. The chain itself is
// what clients are told to trust. Errors name the file.
func LoadServerCertificate(certFile, keyFile string) (*ServerCertificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", certFile, keyFile, err)
	}
	return &ServerCertificate{Certificate: pair, CA: cert}, nil
}

// EnsureServerCertificate gives the certificate in workDir, and makes it there where it is missing: ca.crt,
// ca.key, server.crt, server.key, the keys readable by their owner only. It is good for the host's name,
// localhost, loopback and the addresses of the interfaces; a wildcard stands for every address of the host. A
// server certificate that has ended, or does not cover them, is made anew by the same CA, so that clients that
// trust the CA notice nothing. A CA without its key, and a certificate of another CA, are left as they are.
func EnsureServerCertificate(workDir string, interfaces ...string) (*ServerCertificate, error) {
	if err := os.MkdirAll(workDir, 0o700); err != nil {
		return nil, err
	}
	ca, err := ensureCA(workDir)
	if err != nil {
		return nil, err
	}
	certFile, keyFile := filepath.Join(workDir, "server.crt"), filepath.Join(workDir, "server.key")
	names, addrs := serverNames(interfaces)
	have, err := LoadServerCertificate(certFile, keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case ca.key == nil || have.Certificate.Leaf.CheckSignatureFrom(ca.cert) != nil || covers(have.Certificate.Leaf, names, addrs):
		have.CA = ca.pem
		return have, nil
	}
	if ca.key == nil {
		return nil, fmt.Errorf("%s: needed to make %s", filepath.Join(workDir, "ca.key"), certFile)
	}
	template := certificateTemplate("meridian")
	template.DNSNames, template.IPAddresses = names, addrs
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if err := makeCertificate(template, ca, certFile, keyFile); err != nil {
		return nil, err
	}
	made, err := LoadServerCertificate(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	made.CA = ca.pem
	return made, nil
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey // nil: can't sign
	pem  []byte
}

func ensureCA(workDir string) (*authority, error) {
	certFile, keyFile := filepath.Join(workDir, "ca.crt"), filepath.Join(workDir, "ca.key")
	if _, err := os.Stat(certFile); errors.Is(err, fs.ErrNotExist) {
		template := certificateTemplate("meridian-ca")
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		if err := makeCertificate(template, nil, certFile, keyFile); err != nil {
			return nil, err
		}
	}
	raw, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	ca := &authority{pem: raw}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM certificate", certFile)
	}
	if ca.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	default:
		ca.key, _ = pair.PrivateKey.(*ecdsa.PrivateKey)
	}
	return ca, nil
}

func certificateTemplate(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-clockSkew),
		NotAfter:  now.Add(certificateLife),
	}
}

// makeCertificate writes a new key and its certificate, signed by ca or, where that is nil, by itself. The
// certificate comes last: whoever finds it finds the key.
func makeCertificate(template *x509.Certificate, ca *authority, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return err
	}
	if ca == nil {
		ca = &authority{cert: template, key: key}
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return fmt.Errorf("%s: %w", certFile, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("%s: %w", keyFile, err)
	}
	if err := writePEM(keyFile, "PRIVATE KEY", der, 0o600); err != nil {
		return err
	}
	return writePEM(certFile, "CERTIFICATE", cert, 0o644)
}

// writePEM replaces a file as a whole, so that a process that dies leaves no half of it.
func writePEM(file, kind string, der []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	err = errors.Join(tmp.Chmod(mode), pem.Encode(tmp, &pem.Block{Type: kind, Bytes: der}), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// serverNames gives what a server on the interfaces is called, in a fixed order.
func serverNames(interfaces []string) (names []string, addrs []net.IP) {
	names = []string{"localhost"}
	if host, err := os.Hostname(); err == nil && host != "" && host != "localhost" {
		names = append(names, host)
	}
	addrs = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	add := func(ip net.IP) {
		if !slices.ContainsFunc(addrs, ip.Equal) {
			addrs = append(addrs, ip)
		}
	}
	for _, i := range interfaces {
		ip := net.ParseIP(i)
		switch {
		case i == "" || ip != nil && ip.IsUnspecified():
			// A host that can't list its addresses still has those above.
			all, _ := net.InterfaceAddrs()
			for _, a := range all {
				if n, ok := a.(*net.IPNet); ok {
					add(n.IP)
				}
			}
		case ip != nil:
			add(ip)
		case !slices.Contains(names, i):
			names = append(names, i)
		}
	}
	return names, addrs
}

func covers(cert *x509.Certificate, names []string, addrs []net.IP) bool {
	for _, n := range names {
		if !slices.Contains(cert.DNSNames, n) {
			return false
		}
	}
	for _, a := range addrs {
		if !slices.ContainsFunc(cert.IPAddresses, a.Equal) {
			return false
		}
	}
	return time.Now().Before(cert.NotAfter)
}

// LoadClientCAs trusts every certificate in the files *.pem and *.crt of a directory, be it a CA or a client's
// own. No directory gives nil, for which ServerCertificate.TLS asks for no client certificates. A file with no
// certificate in it is an error that names it.
func LoadClientCAs(dir string) (*x509.CertPool, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	// Never nil here: a server with a nil pool trusts the roots of the system.
	pool := x509.NewCertPool()
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); e.IsDir() || ext != ".pem" && ext != ".crt" {
			continue
		}
		file := filepath.Join(dir, e.Name())
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if n, err := addCertificates(pool, data); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		} else if n == 0 {
			return nil, fmt.Errorf("%s: no PEM certificate", file)
		}
	}
	return pool, nil
}

func addCertificates(pool *x509.CertPool, data []byte) (n int, err error) {
	for data = bytes.TrimSpace(data); len(data) > 0; {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return n, err
		}
		pool.AddCert(cert)
		n++
	}
	return n, nil
}
