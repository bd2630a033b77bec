package main

import (
	"context"
	"os"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
	containerd "github.com/containerd/containerd/v2/cmd/containerd/command"
	ctr "github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func runContainerd([]string) error { return containerd.App().Run(context.Background(), os.Args) }

func runCtr([]string) error { return ctr.New().Run(context.Background(), os.Args) }

// runCoreDNS has the plugins of a cluster's name server, and `template` for the region's domain. Their order here is
// the order in which they are asked.
func runCoreDNS([]string) error {
	dnsserver.Directives = []string{"errors", "health", "ready", "cache", "template", "kubernetes"}
	coremain.Run()
	return nil
}
