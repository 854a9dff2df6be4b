package zonedp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxCatalog bounds the catalog, in bytes.
const maxCatalog = 64 << 10

// errNowhere is a catalog that is no use however often it is read.
var errNowhere = errors.New("no bootstrap there")

// discover asks the API where the port for proxies is, as clients of 0.3 to 1.0 do. Who answers for the API need not
// be believed: the port has to show a certificate of --ca-cert-file.
func (c *client) discover(ctx context.Context) (*url.URL, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.api.JoinPath("/catalog").String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxCatalog))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%w: %s has no /catalog", errNowhere, c.api)
	case resp.StatusCode != http.StatusOK:
		return nil, &refusal{resp.StatusCode, strings.Join(strings.Fields(string(answer[:min(len(answer), maxReason)])), " ")}
	}
	var catalog struct {
		APIs struct {
			Bootstrap struct {
				URL string `json:"url"`
			} `json:"bootstrap"`
		} `json:"apis"`
	}
	if err := json.Unmarshal(answer, &catalog); err != nil {
		return nil, fmt.Errorf("%w: /catalog is no JSON: %w", errNowhere, err)
	}
	at := catalog.APIs.Bootstrap.URL
	if at == "" {
		return nil, fmt.Errorf("%w: %s is no zone control plane", errNowhere, c.api)
	}
	base, api, err := controlPlane(at)
	if err != nil || api {
		return nil, fmt.Errorf("%w: the bootstrap of /catalog must be https://host:port, got %q", errNowhere, at)
	}
	return base, nil
}
