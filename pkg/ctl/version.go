package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/version"
)

// tagline is the name of the protocol that control planes say they speak.
const tagline = "Kuma"

// greetTime is how long to wait for who a control plane is, before what was asked for is done.
const greetTime = 2 * time.Second

// hello is who a control plane says that it is.
type hello struct {
	Hostname string `json:"hostname"`
	Tagline  string `json:"tagline"`
	Version  string `json:"version"`
}

func (c *client) greet(ctx context.Context) (hello, error) {
	a, err := c.do(ctx, http.MethodGet, nil, nil, "", nil)
	if err != nil {
		return hello{}, err
	}
	var h hello
	if err := json.Unmarshal(a.body, &h); err != nil {
		return hello{}, errors.New("the answer is no JSON")
	}
	return h, nil
}

// warnIfForeign says so if what answers is no control plane, or one of another release. That nothing answers is
// said by what comes after it.
func (c *client) warnIfForeign(ctx context.Context, stderr io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	h, err := c.greet(ctx)
	if err != nil {
		return
	}
	ours := version.Get().Version
	switch {
	case h.Tagline != tagline:
		_, _ = fmt.Fprintf(stderr, "Warning: who answers at %s is no control plane\n", c.base)
	case release(h.Version) != release(ours) && release(h.Version) != "" && release(ours) != "":
		_, _ = fmt.Fprintf(stderr, "Warning: the control plane at %s is of version %s, meridianctl of %s\n", c.base, h.Version, ours)
	}
}

var releases = regexp.MustCompile(`^v?(\d+\.\d+)\.\d+`)

// release is what versions that understand one another have in common: 1.2 of v1.2.3. It is "" where that can't be
// told, as of a build between releases.
func release(v string) string {
	if m := releases.FindStringSubmatch(v); m != nil {
		return m[1]
	}
	return ""
}

func (t *tool) version() *cobra.Command {
	var detailed bool
	c := &cobra.Command{
		Use: "version", Short: "Print which build this is", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			out := c.OutOrStdout()
			if !detailed {
				_, err := fmt.Fprintln(out, version.Get().Version)
				return err
			}
			_, err := fmt.Fprintf(out, "%sControl plane: %s\n", version.Get().Detailed(), t.serverVersion(c.Context()))
			return err
		},
	}
	// -a is the flag's other name; both stand for the same.
	c.Flags().BoolVar(&detailed, "detailed", false, "with tag, commit and date, and the control plane's version")
	c.Flags().BoolVarP(&detailed, "all", "a", false, "the same as --detailed")
	return c
}

// serverVersion is the version of the control plane, or why it is not known.
func (t *tool) serverVersion(ctx context.Context) string {
	at, err := t.target()
	if err != nil {
		return err.Error()
	}
	cp, err := t.open(at)
	if err != nil {
		return err.Error()
	}
	defer cp.close()
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	h, err := cp.greet(ctx)
	if err != nil {
		return "unknown (" + firstLine(err).Error() + ")"
	}
	return fmt.Sprintf("%s (%s at %s)", h.Version, h.Hostname, at.address)
}
