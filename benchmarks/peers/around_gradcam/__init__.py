"""Servers around pytorch-grad-cam, each as its own documentation writes one."""

# Imports torchvision, which sometimes needs help, before pytorch-grad-cam does.
from service.models import torchvision_adapter as torchvision_adapter
