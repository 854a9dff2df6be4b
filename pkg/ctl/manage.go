package ctl

import (
	"context"
	"crypto/sha1" //nolint:gosec // a fingerprint that people compare, as published
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// maxPEM bounds a file with a certificate or a key, in bytes.
const maxPEM = 1 << 20

func (t *tool) manage() *cobra.Command {
	certificates := group("certificates", "Manage the signing certificate of a mesh's provided CA",
		t.addCertificate(), t.listCertificates(), t.deleteCertificate())
	provided := group("provided", "Manage CAs that you bring", certificates)
	return group("manage", "Manage certificate authorities", group("ca", "Manage certificate authorities", provided))
}

// asAdmin is with, for what administrators do. The published client reaches a control plane over plain HTTP, but
// shows its certificate where the catalog says that administrators go.
func (t *tool) asAdmin(c *cobra.Command, f func(*client) error) error {
	at, err := t.target()
	if err != nil {
		return err
	}
	return t.with(c, func(cp *client) error {
		if at.clientCertFile == "" || cp.base.Scheme != "http" || loopback(cp.base) {
			return f(cp)
		}
		public, err := cp.publicAdmin(c.Context())
		if err != nil {
			return err
		}
		at.address = public
		admin, err := t.open(at)
		if err != nil {
			return err
		}
		defer admin.close()
		return f(admin)
	})
}

// publicAdmin is where administrators go from another machine.
func (c *client) publicAdmin(ctx context.Context) (string, error) {
	a, err := c.do(ctx, http.MethodGet, []string{"catalog"}, nil, "", nil)
	if err != nil {
		return "", fmt.Errorf("the control plane's catalog: %w", err)
	}
	var catalog struct {
		APIs struct {
			Admin struct {
				PublicURL string `json:"publicUrl"`
			} `json:"admin"`
		} `json:"apis"`
	}
	if err := json.Unmarshal(a.body, &catalog); err != nil {
		return "", fmt.Errorf("the control plane's catalog can't be read: %w", err)
	}
	if u, err := url.Parse(catalog.APIs.Admin.PublicURL); err != nil || u.Scheme != "https" {
		return "", errors.New("the control plane's catalog says not where administrators go: use its https address")
	}
	return catalog.APIs.Admin.PublicURL, nil
}

// signingCertificate is one of a provided CA.
type signingCertificate struct {
	ID   string `json:"id"`
	Cert string `json:"cert"`
}

func (t *tool) certificatesPath() []string {
	return []string{"meshes", url.PathEscape(t.mesh), "ca", "provided", "certificates"}
}

func (t *tool) addCertificate() *cobra.Command {
	var certFile, keyFile string
	c := &cobra.Command{
		Use: "add --cert-file FILE --key-file FILE", Short: "Give a mesh the certificate and the key to sign with", Args: cobra.NoArgs,
		Long: "Give a mesh the certificate and the key that its provided CA signs with. They are kept as secrets of the mesh, for a\n" +
			"backend named provided. The key does not come back.",
		RunE: func(c *cobra.Command, _ []string) error {
			var body struct {
				Cert string `json:"cert"`
				Key  string `json:"key"`
			}
			for _, f := range []struct {
				flag, file string
				to         *string
			}{{"--cert-file", certFile, &body.Cert}, {"--key-file", keyFile, &body.Key}} {
				data, err := readBounded(f.file, maxPEM)
				if err != nil {
					return fmt.Errorf("%s: %w", f.flag, err)
				}
				*f.to = string(data)
			}
			data, err := json.Marshal(body)
			if err != nil {
				return err
			}
			return t.asAdmin(c, func(cp *client) error {
				a, err := cp.do(c.Context(), http.MethodPost, t.certificatesPath(), nil, jsonType, data)
				if err != nil {
					return err
				}
				var made signingCertificate
				if err := json.Unmarshal(a.body, &made); err != nil {
					return fmt.Errorf("the answer can't be read: %w", err)
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "added certificate %q\n", made.ID)
				return err
			})
		},
	}
	c.Flags().StringVar(&certFile, "cert-file", "", "PEM file of the CA's certificate")
	c.Flags().StringVar(&keyFile, "key-file", "", "PEM file of its key")
	_ = c.MarkFlagRequired("cert-file")
	_ = c.MarkFlagRequired("key-file")
	return c
}

func (t *tool) listCertificates() *cobra.Command {
	return t.outputFlag(&cobra.Command{
		Use: "list", Short: "List what a mesh's provided CA signs with", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.asAdmin(c, func(cp *client) error {
				a, err := cp.do(c.Context(), http.MethodGet, t.certificatesPath(), nil, "", nil)
				if err != nil {
					return err
				}
				if t.output != "table" {
					return printItem(c.OutOrStdout(), t.output, a.body)
				}
				var certs []signingCertificate
				if err := json.Unmarshal(a.body, &certs); err != nil {
					return fmt.Errorf("the answer can't be read: %w", err)
				}
				return printCertificates(c.OutOrStdout(), certs)
			})
		},
	})
}

func printCertificates(out io.Writer, certs []signingCertificate) error {
	parsed := make([]*x509.Certificate, len(certs))
	for i, c := range certs {
		block, _ := pem.Decode([]byte(c.Cert))
		if block == nil {
			return fmt.Errorf("certificate %s is no PEM", c.ID)
		}
		var err error
		if parsed[i], err = x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %s: %w", c.ID, err)
		}
	}
	heads := []string{"ID", "COMMON NAME", "SERIAL NUMBER", "NOT VALID BEFORE", "NOT VALID AFTER", "SHA-1 FINGERPRINT", "SHA-256 FINGERPRINT"}
	return rows(out, heads, func(row func(...string)) {
		for i, c := range parsed {
			row(certs[i].ID, c.Subject.CommonName, c.SerialNumber.String(),
				c.NotBefore.UTC().Format(time.DateTime), c.NotAfter.UTC().Format(time.DateTime),
				fmt.Sprintf("%x", sha1.Sum(c.Raw)), fmt.Sprintf("%x", sha256.Sum256(c.Raw))) //nolint:gosec // as above
		}
	})
}

func (t *tool) deleteCertificate() *cobra.Command {
	var id string
	c := &cobra.Command{
		Use: "delete --id ID", Short: "Take a certificate and its key away from a mesh's provided CA", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.asAdmin(c, func(cp *client) error {
				path := append(t.certificatesPath(), url.PathEscape(id))
				if _, err := cp.do(c.Context(), http.MethodDelete, path, nil, "", nil); err != nil {
					return err
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "removed certificate %q\n", id)
				return err
			})
		},
	}
	c.Flags().StringVar(&id, "id", "", "the certificate's id, as list shows it")
	_ = c.MarkFlagRequired("id")
	return c
}
