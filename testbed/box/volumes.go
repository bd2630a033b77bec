package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const (
	provisionerName = "testbed.flowplane.dev/folder"
	folderKey       = "testbed.flowplane.dev/folder"
)

// folderVolumes makes a folder for each claim. It needs no pods to do so, as other provisioners of this kind do: the
// one real node and we share a file system.
type folderVolumes struct{ root string }

// Provision makes the folder, open to every user: Kubernetes does not apply a pod's fsGroup to such volumes.
func (v folderVolumes) Provision(_ context.Context, wish controller.ProvisionOptions) (
	*core.PersistentVolume, controller.ProvisioningState, error) {
	folder := filepath.Join(v.root, wish.PVC.Namespace+"_"+wish.PVC.Name+"_"+wish.PVName)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if err := os.Chmod(folder, 0o777); err != nil { // whatever the umask made of it
		return nil, controller.ProvisioningFinished, err
	}
	mustExist := core.HostPathDirectory
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: wish.PVName, Annotations: map[string]string{folderKey: folder}},
		Spec: core.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *wish.StorageClass.ReclaimPolicy,
			AccessModes:                   wish.PVC.Spec.AccessModes,
			Capacity: core.ResourceList{
				core.ResourceStorage: wish.PVC.Spec.Resources.Requests[core.ResourceStorage],
			},
			PersistentVolumeSource: core.PersistentVolumeSource{
				HostPath: &core.HostPathVolumeSource{Path: folder, Type: &mustExist},
			},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete removes the folder, and only one that lies where we put folders.
func (v folderVolumes) Delete(_ context.Context, volume *core.PersistentVolume) error {
	folder := volume.Annotations[folderKey]
	if filepath.Dir(folder) != filepath.Clean(v.root) {
		return &controller.IgnoredError{Reason: "not a folder of ours"}
	}
	return os.RemoveAll(folder)
}

func runFolderVolumes(arguments []string) error {
	flags := flag.NewFlagSet("folder-volumes", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "file that says where the API server is")
	root := flags.String("root", "", "folder that holds the volumes")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 200, 400 // a benchmark asks for hundreds of volumes at once
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	controller.NewProvisionController(ctx, client, provisionerName, folderVolumes{*root},
		controller.LeaderElection(false), controller.Threadiness(8)).Run(ctx)
	return nil
}
