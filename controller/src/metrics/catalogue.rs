//! Every metric that there is: its name, type and help, which are KubeVirt's (docs/observability/metrics.md, v1.10 development).
//!
//! Names of counters are whole here: the text is Prometheus' own format, in which a type is said of the name that samples have.

use prometheus_client::metrics::MetricType;

/// What is said of a metric.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    /// The name that its samples have.
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    /// Without the full stop.
    pub(super) help: &'static str,
}

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal $help:literal)*) => {
        $(pub(super) const $id: Metric = Metric { name: $name, kind: MetricType::$kind, help: $help };)*
        /// All of them.
        #[cfg(test)]
        pub(super) const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    INFO Gauge "kubevirt_info" "Version information"
    API_READY Gauge "kubevirt_virt_api_ready_status" "Indication for a virt-api server that is ready to serve requests"
    CONTROLLER_LEADING Gauge "kubevirt_virt_controller_leading_status" "Indication for an operating virt-controller"
    CONTROLLER_READY Gauge "kubevirt_virt_controller_ready_status" "Indication for a virt-controller that is ready to take the lead"
    OPERATOR_LEADING Gauge "kubevirt_virt_operator_leading_status" "Indication for an operating virt-operator"
    OPERATOR_READY Gauge "kubevirt_virt_operator_ready_status" "Indication for a virt-operator that is ready to take the lead"

    VM_INFO Gauge "kubevirt_vm_info" "Information about Virtual Machines"
    VM_CREATED Gauge "kubevirt_vm_create_date_timestamp_seconds" "Virtual Machine creation timestamp"
    VM_STARTING Counter "kubevirt_vm_starting_status_last_transition_timestamp_seconds" "Virtual Machine last transition timestamp to starting status"
    VM_RUNNING Counter "kubevirt_vm_running_status_last_transition_timestamp_seconds" "Virtual Machine last transition timestamp to running status"
    VM_MIGRATING Counter "kubevirt_vm_migrating_status_last_transition_timestamp_seconds" "Virtual Machine last transition timestamp to migrating status"
    VM_NON_RUNNING Counter "kubevirt_vm_non_running_status_last_transition_timestamp_seconds" "Virtual Machine last transition timestamp to paused/stopped status"
    VM_ERROR Counter "kubevirt_vm_error_status_last_transition_timestamp_seconds" "Virtual Machine last transition timestamp to error status"
    VM_REQUESTS Gauge "kubevirt_vm_resource_requests" "Resources requested by Virtual Machine. Reports memory and CPU requests"
    VM_LIMITS Gauge "kubevirt_vm_resource_limits" "Resource limits set for a Virtual Machine. Reports CPU and memory limits only when they are defined"
    VM_DISK Gauge "kubevirt_vm_disk_allocated_size_bytes" "Allocated disk size of a Virtual Machine in bytes, based on its PersistentVolumeClaim. Includes persistentvolumeclaim (PVC name), volume_mode (disk presentation mode: Filesystem or Block), and device (disk name)"
    VM_VNIC Gauge "kubevirt_vm_vnic_info" "Details of Virtual Machine (VM) vNIC interfaces, such as vNIC name, binding type, network name, and binding name for each vNIC defined in the VM's configuration"

    VMI_INFO Gauge "kubevirt_vmi_info" "Information about VirtualMachineInstances"
    VMI_NON_EVICTABLE Gauge "kubevirt_vmi_non_evictable" "Indication for a VirtualMachine that its eviction strategy is set to Live Migration but is not migratable"
    VMI_ADDRESSES Gauge "kubevirt_vmi_status_addresses" "The addresses of a VirtualMachineInstance. This metric provides the address of an available network interface associated with the VMI in the 'address' label, and about the type of address, such as internal IP, in the 'type' label"
    VMI_VNIC Gauge "kubevirt_vmi_vnic_info" "Details of VirtualMachineInstance (VMI) vNIC interfaces, such as vNIC name, binding type, network name, and binding name for each vNIC of a running instance"
    VMI_OVERHEAD Gauge "kubevirt_vmi_launcher_memory_overhead_bytes" "Estimation of the memory amount required for virt-launcher's infrastructure components (e.g. libvirt, QEMU)"

    VMI_PHASE Histogram "kubevirt_vmi_phase_transition_time_seconds" "Histogram of VM phase transitions duration between different phases in seconds"
    VMI_PHASE_FROM_CREATION Histogram "kubevirt_vmi_phase_transition_time_from_creation_seconds" "Histogram of VM phase transitions duration from creation time in seconds"
    VMI_PHASE_FROM_DELETION Histogram "kubevirt_vmi_phase_transition_time_from_deletion_seconds" "Histogram of VM phase transitions duration from deletion time in seconds"

    VM_CREATED_BY_POD Counter "kubevirt_vm_created_by_pod_total" "[Deprecated] The total number of VMs created by namespace and virt-api pod, since install"
    CONSOLES Gauge "kubevirt_console_active_connections" "Amount of active Console connections, broken down by namespace and vmi name"
    TUNNELS Gauge "kubevirt_portforward_active_tunnels" "Amount of active portforward tunnels, broken down by namespace and vmi name"
    LAST_CONNECTION Gauge "kubevirt_vmi_last_api_connection_timestamp_seconds" "Virtual Machine Instance last API connection timestamp. Including VNC, console, portforward, SSH and usbredir connections"

    REST_LATENCY Histogram "kubevirt_rest_client_request_latency_seconds" "Request latency in seconds. Broken down by verb and URL"
    REST_REQUESTS Counter "kubevirt_rest_client_requests_total" "Number of HTTP requests, partitioned by status code, method, and host"

    WORK_DURATION Histogram "kubevirt_workqueue_work_duration_seconds" "How long in seconds processing an item from workqueue takes"
    WORK_RETRIES Counter "kubevirt_workqueue_retries_total" "Total number of retries handled by workqueue"
    WORK_LONGEST Gauge "kubevirt_workqueue_longest_running_processor_seconds" "How many seconds has the longest running processor for workqueue been running"
    WORK_UNFINISHED Gauge "kubevirt_workqueue_unfinished_work_seconds" "How many seconds of work have been in progress without being observed by work_duration. Large values indicate stuck threads. The number of stuck threads can be deduced by observing the rate at which this value increases"
}
