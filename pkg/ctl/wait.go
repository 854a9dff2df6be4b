package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

func (t *tool) wait() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use: "wait REVISION", Short: "Wait until a revision is live on every connected proxy", Args: named(1),
		Long: "Wait until a revision, as apply and delete name it, is live on every connected proxy of every zone that is enabled\n" +
			"and online. It fails when objects of that revision or an earlier one are refused, and when the time is over.",
		RunE: func(c *cobra.Command, args []string) error {
			return t.with(c, func(cp *client) error {
				// The control plane says at the end of the time who is missing.
				cp.http.Timeout = timeout + requestTime
				query := url.Values{"revision": {args[0]}, "wait": {timeout.String()}}
				a, err := cp.do(c.Context(), http.MethodGet, []string{"positions"}, query, "", nil)
				if err != nil {
					return err
				}
				var p positions
				if err := json.Unmarshal(a.body, &p); err != nil {
					return fmt.Errorf("the answer can't be read: %w", err)
				}
				if t.output == "table" {
					err = p.print(c.OutOrStdout())
				} else {
					err = printItem(c.OutOrStdout(), t.output, a.body)
				}
				if err != nil || p.State == "live" {
					return err
				}
				if p.State == "rejected" {
					return fmt.Errorf("revision %s: some objects are refused", args[0])
				}
				return fmt.Errorf("revision %s is not live everywhere after %s", args[0], timeout)
			})
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "for how long to wait, at most 5m; 0s: not at all")
	return t.outputFlag(c)
}

// positions is how far a revision has come.
type positions struct {
	Revision json.RawMessage
	State    string
	Zones    []struct {
		Name, State   string
		Applied, Live json.RawMessage
		Missing       int
	}
	Proxies []struct {
		Mesh, Name, Zone string
		Live             json.RawMessage
		Joining          bool
	}
	Rejections []struct {
		Kind, Mesh, Name, Zone, Reason string
		Revision                       json.RawMessage
	}
}

// print says how it is, and unless all is well, who is missing and what is refused.
func (p positions) print(out io.Writer) error {
	if _, err := fmt.Fprintf(out, "revision %s: %s\n", number(p.Revision), p.State); err != nil || p.State == "live" {
		return err
	}
	err := section(out, []string{"ZONE", "STATE", "APPLIED", "LIVE", "MISSING"}, len(p.Zones), func(i int) []string {
		z := p.Zones[i]
		return []string{z.Name, z.State, number(z.Applied), number(z.Live), strconv.Itoa(z.Missing)}
	})
	if err != nil {
		return err
	}
	err = section(out, []string{"ZONE", "MESH", "PROXY", "STATE", "LIVE"}, len(p.Proxies), func(i int) []string {
		x, state := p.Proxies[i], "lagging"
		if x.Joining {
			state = "joining"
		}
		return []string{x.Zone, x.Mesh, x.Name, state, number(x.Live)}
	})
	if err != nil {
		return err
	}
	return section(out, []string{"ZONE", "KIND", "MESH", "NAME", "REVISION", "REFUSED BECAUSE"}, len(p.Rejections), func(i int) []string {
		r := p.Rejections[i]
		return []string{r.Zone, r.Kind, r.Mesh, r.Name, number(r.Revision), strconv.Quote(r.Reason)}
	})
}

// section is a table with an empty line before it; nothing where it has no rows.
func section(out io.Writer, heads []string, n int, cells func(int) []string) error {
	if n == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(out); err != nil {
		return err
	}
	return rows(out, heads, func(row func(...string)) {
		for i := range n {
			row(cells(i)...)
		}
	})
}
