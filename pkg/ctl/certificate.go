package ctl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/auth"
)

func (t *tool) tlsCertificate() *cobra.Command {
	var types, hosts []string
	var certFile, keyFile string
	var validFor time.Duration
	c := &cobra.Command{
		Use: "tls-certificate", Short: "Make a TLS certificate for a control plane or for a client, with its key", Args: cobra.NoArgs,
		Long: `Make a TLS certificate that is its own authority, and its key, without asking a control plane.

A server's is for apiServer.https, dpServer and multizone.global.kds; its clients trust the certificate itself.
A client's goes into the directory that apiServer.auth.clientCertsDir or multizone.global.kds.clientCertsDir names.`,
		RunE: func(c *cobra.Command, _ []string) error {
			s := auth.SelfSigned{Name: "meridian", Hosts: hosts, ValidFor: validFor, Now: time.Now()}
			for _, typ := range types {
				switch typ {
				case "server":
					s.Server = true
				case "client":
					s.Client = true
				default:
					return usagef("--type: must be server or client, got %q", typ)
				}
			}
			switch {
			case s.Server && len(hosts) == 0:
				return usagef("--cp-hostname: a server's certificate needs the name or address that its clients call it by")
			case !s.Server && len(hosts) > 0:
				return usagef("--cp-hostname: only a server's certificate has one")
			case validFor <= 0:
				return usagef("--valid-for: must be above zero")
			}
			cert, key, err := s.Make()
			if err != nil {
				return fmt.Errorf("--cp-hostname: %w", err)
			}
			if err := writePair(c.OutOrStdout(), certFile, cert, keyFile, key); err != nil {
				return err
			}
			if certFile == "-" || keyFile == "-" {
				return nil
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "Certificate in %s, key in %s, for %s until %s\n",
				certFile, keyFile, strings.Join(types, " and "), s.Now.Add(validFor).UTC().Format(time.DateOnly))
			return err
		},
	}
	f := c.Flags()
	f.StringSliceVar(&types, "type", nil, "server, client or both")
	f.StringSliceVar(&hosts, "cp-hostname", nil, "name or address of the control plane, for a server's certificate; may be given often; localhost comes with it")
	f.StringVar(&certFile, "cert-file", "cert.pem", "file to write the certificate to; - is the standard output")
	f.StringVar(&keyFile, "key-file", "key.pem", "file to write the key to; - is the standard output")
	f.DurationVar(&validFor, "valid-for", 87600*time.Hour, "for how long the certificate holds")
	completes(c, "type", "server", "client")
	_ = c.MarkFlagRequired("type")
	return c
}

// writePair writes both files, or none: a key that is there already may be in use.
func writePair(stdout io.Writer, certFile string, cert []byte, keyFile string, key []byte) error {
	if err := writeNew(stdout, keyFile, key, 0o600); err != nil {
		return fmt.Errorf("--key-file: %w", err)
	}
	if err := writeNew(stdout, certFile, cert, 0o644); err != nil {
		err = fmt.Errorf("--cert-file: %w", err)
		if keyFile != "-" {
			err = errors.Join(err, os.Remove(keyFile))
		}
		return err
	}
	return nil
}

// writeNew writes a file that must not be there; "-" is the standard output.
func writeNew(stdout io.Writer, name string, data []byte, mode fs.FileMode) error {
	if name == "-" {
		_, err := stdout.Write(data)
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
