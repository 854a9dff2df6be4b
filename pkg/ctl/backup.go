package ctl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/backup"
	backupv1 "github.com/meridian-mesh/meridian/proto/meridian/backup/v1"
)

// open sends a GET whose answer is read as it comes, however long that takes. The caller closes it.
func (c *client) open(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	patient := client{base: c.base, http: &http.Client{Transport: c.http.Transport, CheckRedirect: c.http.CheckRedirect}, log: c.log}
	resp, err := patient.send(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		return nil, refusal(resp.StatusCode, data)
	}
	return resp.Body, nil
}

func (t *tool) backup() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "backup -f FILE", Short: "Copy all that a running control plane keeps into a file", Args: cobra.NoArgs,
		Long: "Copy the config log of a running control plane, at one revision, into a file. Secrets in it are encrypted with the\n" +
			"control plane's store.key, which is not in it: keep that apart. The checksum is verified as the file is written.\n" +
			"For administrators only.",
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("--file: is needed; - is the standard output")
			}
			return t.with(c, func(cp *client) error {
				body, err := cp.open(c.Context(), "backup", nil)
				if err != nil {
					return err
				}
				defer func() { _ = body.Close() }()
				if file == "-" {
					_, _, err := backup.Verify(io.TeeReader(body, c.Root().OutOrStdout()))
					return err
				}
				h, n, err := save(body, file)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s, revision %d, %d records\n", file, whose(h), h.GetRevision(), n)
				return err
			})
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "file to write; - is the standard output")
	return c
}

func whose(h *backupv1.Header) string {
	if h.GetRole() == backup.Global {
		return "global control plane"
	}
	return "zone control plane of " + h.GetZone()
}

// save writes a backup to a file that is there only when it is whole.
func save(body io.Reader, file string) (h *backupv1.Header, records uint64, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		_ = tmp.Close() // It was closed before, unless something failed.
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if h, records, err = backup.Verify(io.TeeReader(body, tmp)); err != nil {
		return nil, 0, err
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return nil, 0, err
	}
	return h, records, os.Rename(tmp.Name(), file)
}

func (t *tool) export() *cobra.Command {
	var secrets bool
	var format string
	c := &cobra.Command{
		Use: "export", Short: "Print all that users wrote, as documents that apply takes", Args: cobra.NoArgs,
		Long: "Print all that users wrote to a control plane, at one revision, as documents that apply takes again, in an order in\n" +
			"which it can. Secrets, keys of authorities and revocations are left out unless asked for; they come in plain.",
		RunE: func(c *cobra.Command, _ []string) error {
			if format != "yaml" && format != "json" {
				return usagef("--output: must be yaml or json, got %q", format)
			}
			return t.with(c, func(cp *client) error {
				query := url.Values{}
				if secrets {
					query.Set("secrets", "true")
				}
				body, err := cp.open(c.Context(), "export", query)
				if err != nil {
					return err
				}
				defer func() { _ = body.Close() }()
				out := bufio.NewWriter(c.OutOrStdout())
				return errors.Join(documents(out, body, format), out.Flush())
			})
		},
	}
	c.Flags().BoolVar(&secrets, "include-secrets", false, "also secrets and revocations, in plain; for administrators only")
	c.Flags().StringVarP(&format, "output", "o", "yaml", "yaml or json")
	return c
}

// documents prints the JSON documents of an answer.
func documents(out io.Writer, body io.Reader, format string) error {
	for dec := json.NewDecoder(body); ; {
		var raw json.RawMessage
		switch err := dec.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the export was cut off: %w", err)
		}
		var err error
		if format == "json" {
			err = printJSON(out, raw)
		} else if _, err = io.WriteString(out, "---\n"); err == nil {
			err = printYAML(out, raw)
		}
		if err != nil {
			return err
		}
	}
}
