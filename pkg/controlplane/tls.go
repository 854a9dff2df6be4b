package controlplane

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/meridian-mesh/meridian/pkg/auth"
)

// Port is what a TLS port is configured with. Keys are what errors name.
type Port struct {
	// Name is that of the ready line.
	Name string
	// CertFile and KeyFile, or both empty for the certificate of the work directory.
	CertKey, CertFile, KeyFile string
	// ClientCertsDir is empty where no client certificates are asked for.
	ClientCertsKey, ClientCertsDir string
}

// TLS reads the certificate of a port and its client CAs, and reads them again when their files change, for as long as
// the control plane runs. What cannot be read then leaves what was read before. The certificate of the work directory is
// the control plane's own, and is read at the start only.
func (b *Base) TLS(p Port, certs *Certificates) (*auth.ServerTLS, error) {
	cert, err := certs.For(p.CertKey, p.CertFile, p.KeyFile)
	if err != nil {
		return nil, err
	}
	cas, err := ClientCAs(p.ClientCertsKey, p.ClientCertsDir)
	if err != nil {
		return nil, err
	}
	t := auth.NewServerTLS(cert, cas)
	b.Expires(p.Name, cert)
	if p.CertFile != "" {
		b.files.Add(func() { b.renewCertificate(p, t) }, p.CertFile, p.KeyFile)
	}
	if p.ClientCertsDir != "" {
		b.files.Add(func() { b.renewClientCAs(p, t) }, p.ClientCertsDir)
	}
	return t, nil
}

func (b *Base) renewCertificate(p Port, t *auth.ServerTLS) {
	cert, err := auth.LoadServerCertificate(p.CertFile, p.KeyFile)
	if err == nil && time.Now().After(cert.Certificate.Leaf.NotAfter) {
		err = fmt.Errorf("%s: ended at %s", p.CertFile, cert.Certificate.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	switch {
	case err != nil:
		b.Logger.Warn("the new certificate of a port is no use: the old one is shown on", "port", p.Name, "key", p.CertKey, "error", err)
	case bytes.Equal(cert.CA, t.Certificate().CA):
	default:
		t.SetCertificate(cert)
		b.Expires(p.Name, cert)
		b.Logger.Info("the certificate of a port was replaced", "port", p.Name, "file", p.CertFile, "ends", cert.Certificate.Leaf.NotAfter)
	}
}

func (b *Base) renewClientCAs(p Port, t *auth.ServerTLS) {
	cas, err := ClientCAs(p.ClientCertsKey, p.ClientCertsDir)
	if err != nil {
		b.Logger.Warn("the new client CAs of a port are no use: the old ones hold on", "port", p.Name, "error", err)
		return
	}
	if t.SetClientCAs(cas) {
		b.Logger.Info("the client CAs of a port were replaced", "port", p.Name, "directory", p.ClientCertsDir)
	}
}

// watchFiles lets a control plane serve also where the system gives no events of files.
func (b *Base) watchFiles(ctx context.Context) error {
	if err := b.files.Run(ctx); ctx.Err() == nil {
		b.Logger.Warn("files are not watched: new certificates are read with the next restart only", "error", err)
		<-ctx.Done()
	}
	return nil
}
