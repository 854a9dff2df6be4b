package ctl

import (
	_ "embed"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
)

//go:embed unit.service.tmpl
var unitTemplate string

// unit is what a systemd unit is made from.
type unit struct {
	File, Program, Title, User, Command, EnvironmentFile, State, Runtime string
	Notes, Environment                                                   []string
	// Stop is how many seconds it may take to end.
	Stop int
	// Envoy says that it starts one, which makes machine code as it runs.
	Envoy bool
}

func (t *tool) install() *cobra.Command {
	systemd := group("systemd", "Print a systemd unit", t.globalUnit(), t.zoneUnit(), t.dataplaneUnit())
	c := group("install", "Print what is needed to run Meridian on a machine", systemd)
	for _, name := range []string{
		"control-plane", "crds", "demo", "dns", "gateway", "ingress", "kong-ingress", "logging", "metrics", "observability", "postgres-schema",
		"tracing", "transparent-proxy",
	} {
		c.AddCommand(elsewhere("install", name))
	}
	return c
}

func uninstall() *cobra.Command {
	c := group("uninstall", "Undo what install does (it prints only, so there is nothing to undo)", elsewhere("uninstall", "transparent-proxy"))
	c.Hidden = true
	return c
}

// elsewhere is a command of the published client that there is no use for here. Its flags are not looked at.
func elsewhere(group, name string) *cobra.Command {
	why := "it is for Kubernetes or for proxies that see all traffic, and Meridian runs on machines, where proxies are told what to forward; see install systemd"
	if name == "postgres-schema" {
		why = "there is no PostgreSQL store yet; a control plane makes the schema of its store by itself"
	}
	return &cobra.Command{
		Use: name, Short: "Not for Meridian", Hidden: true, DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			if slices.Contains(args, "-h") || slices.Contains(args, "--help") {
				return c.Help()
			}
			return fmt.Errorf("%s %s: %s", group, name, why)
		},
	}
}

// unitCommand makes the command that prints a unit, with what all of them have in common.
func unitCommand(use, short string, make func(binDir string, u *unit) error, values ...*string) *cobra.Command {
	var binDir string
	u := unit{Program: use}
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, v := range append(values, &binDir, &u.User) {
				// Any of these would mean something else to systemd.
				if strings.ContainsFunc(*v, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`%$"'\;#`, r) }) {
					return usagef("%q can't stand in a unit", *v)
				}
			}
			if u.User == "" || !path.IsAbs(binDir) {
				return usagef("--user is needed, and --bin-dir must be absolute")
			}
			if err := make(binDir, &u); err != nil {
				return err
			}
			parsed, err := template.New("unit").Parse(unitTemplate)
			if err != nil {
				return err
			}
			return parsed.Execute(c.OutOrStdout(), u)
		},
	}
	c.Flags().StringVar(&u.User, "user", "meridian", "user and group to run as")
	c.Flags().StringVar(&binDir, "bin-dir", "/usr/local/bin", "directory of the programs")
	return c
}

func (t *tool) globalUnit() *cobra.Command {
	return unitCommand("global", "For the global control plane", func(binDir string, u *unit) error {
		u.File, u.Title, u.Stop = "/etc/systemd/system/meridian-global.service", "global control plane", 10
		u.Command = binDir + "/global-cp run"
		u.State, u.EnvironmentFile = "meridian-global", "/etc/meridian/global.env"
		u.Environment = []string{"MERIDIAN_GENERAL_WORK_DIR=%S/meridian-global", "HOME=%S/meridian-global"}
		u.Notes = []string{"Settings (MERIDIAN_...) go into " + u.EnvironmentFile + "."}
		return nil
	})
}

func (t *tool) zoneUnit() *cobra.Command {
	var zone, address string
	c := unitCommand("zone", "For a zone control plane", func(binDir string, u *unit) error {
		u.File, u.Title, u.Stop = "/etc/systemd/system/meridian-zone.service", "zone control plane", 10
		u.Command = binDir + "/zone-cp run"
		u.State, u.EnvironmentFile = "meridian-zone", "/etc/meridian/zone.env"
		u.Environment = []string{"MERIDIAN_GENERAL_WORK_DIR=%S/meridian-zone", "HOME=%S/meridian-zone"}
		u.Notes = []string{"Settings (MERIDIAN_...) go into " + u.EnvironmentFile + "."}
		if (zone == "") != (address == "") {
			return usagef("--zone and --global-address: both are needed, or none for a standalone zone")
		}
		if zone != "" {
			if !strings.HasPrefix(address, "grpcs://") {
				return usagef("--global-address: must be grpcs://host:port, got %q", address)
			}
			u.Environment = append(u.Environment, "MERIDIAN_MULTIZONE_ZONE_NAME="+zone, "MERIDIAN_MULTIZONE_ZONE_GLOBAL_ADDRESS="+address,
				"MERIDIAN_MULTIZONE_ZONE_KDS_ROOT_CA_FILE=/etc/meridian/global-ca.crt", "MERIDIAN_MULTIZONE_ZONE_KDS_TOKEN_FILE=/etc/meridian/zone.token")
			u.Notes = append(u.Notes, "The global's ca.crt goes to /etc/meridian/global-ca.crt, the zone's token (meridianctl generate zone-token)",
				"to /etc/meridian/zone.token; the user has to be able to read them.")
		}
		return nil
	}, &zone, &address)
	c.Flags().StringVar(&zone, "zone", "", "name of the zone")
	c.Flags().StringVar(&address, "global-address", "", "the global control plane's port for zones, grpcs://host:port")
	return c
}

func (t *tool) dataplaneUnit() *cobra.Command {
	var address, envoy string
	c := unitCommand("dataplane", "For data plane proxies: one unit, an instance for each", func(binDir string, u *unit) error {
		if !strings.HasPrefix(address, "https://") {
			return usagef("--cp-address: must be https://host:port, got %q", address)
		}
		if !path.IsAbs(envoy) {
			return usagef("--envoy: must be absolute")
		}
		const files = "/etc/meridian/dataplanes/%i"
		u.File, u.Title, u.Stop, u.Envoy = "/etc/systemd/system/meridian-dataplane@.service", "data plane proxy %i", 45, true
		u.Command = strings.Join([]string{
			binDir + "/zone-dp run", "--cp-address " + address, "--ca-cert-file /etc/meridian/zone-ca.crt", "--dataplane-file " + files + ".yaml",
			"--dataplane-token-file " + files + ".token", "--binary-path " + envoy, "--config-dir %t/meridian-dataplane-%i",
		}, " \\\n  ")
		u.Runtime, u.Environment = "meridian-dataplane-%i", []string{"HOME=%t/meridian-dataplane-%i"}
		u.Notes = []string{
			"The zone's ca.crt goes to /etc/meridian/zone-ca.crt. A proxy web has its dataplane in /etc/meridian/dataplanes/web.yaml,",
			"its token (meridianctl generate dataplane-token) beside it in web.token, and is started by",
			"systemctl enable --now meridian-dataplane@web. The user has to be able to read them.",
		}
		return nil
	}, &address, &envoy)
	c.Flags().StringVar(&address, "cp-address", "https://127.0.0.1:5678", "the zone control plane's port for proxies")
	c.Flags().StringVar(&envoy, "envoy", "/usr/local/bin/envoy", "Envoy")
	return c
}
